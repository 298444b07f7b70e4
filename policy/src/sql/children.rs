//! The children of every node the grammar can produce, so that a walk can be a loop over a stack of its own.
//!
//! Not a visitor: no order is promised, and names (of columns, functions, operators, types) are left to the node that owns them.
//! Invariant: every field that can hold a statement, a relation or an expression is listed; a node the grammar does not produce
//! is [`Unknown`], never skipped. Left out on purpose: GRANT's object list and CREATE STATISTICS' FROM list (the library's
//! typed view of them is narrower than the grammar), role names, and FOR UPDATE OF (it names aliases, not tables).
//! Source: parsenodes.h and primnodes.h of PostgreSQL 18, through the accessors of `pg_raw_parse` 0.1.0.

use pg_raw_parse::Node;

/// A node only later stages of PostgreSQL make: nothing may be said about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unknown;

/// Pushes the children of `node`; absent ones may be pushed as [`Node::None`].
pub(crate) fn children<'a>(node: Node<'a>, out: &mut Vec<Node<'a>>) -> Result<(), Unknown> {
    match node {
        Node::None => {}
        Node::NodeList(n) => out.extend(n.iter()),
        Node::Alias(n) => {
            out.extend(n.colnames().iter());
        }
        Node::IntoClause(n) => {
            out.push(n.rel().into());
            out.extend(n.col_names().iter());
            out.extend(n.options().iter());
        }
        Node::GroupingFunc(n) => {
            out.extend(n.args().iter());
            out.extend(n.refs().iter());
            out.extend(n.cols().iter());
        }
        Node::NamedArgExpr(n) => {
            out.push(n.arg());
        }
        Node::BoolExpr(n) => {
            out.extend(n.args().iter());
        }
        Node::SubLink(n) => {
            out.push(n.testexpr());
            out.push(n.subselect());
        }
        Node::CaseExpr(n) => {
            out.push(n.arg());
            out.extend(n.args().iter());
            out.push(n.defresult());
        }
        Node::CaseWhen(n) => {
            out.push(n.expr());
            out.push(n.result());
        }
        Node::RowExpr(n) => {
            out.extend(n.args().iter());
        }
        Node::CoalesceExpr(n) => {
            out.extend(n.args().iter());
        }
        Node::MinMaxExpr(n) => {
            out.extend(n.args().iter());
        }
        Node::XmlExpr(n) => {
            out.extend(n.named_args().iter());
            out.extend(n.args().iter());
        }
        Node::JsonValueExpr(n) => {
            out.push(n.raw_expr());
            out.push(n.formatted_expr());
        }
        Node::JsonIsPredicate(n) => {
            out.push(n.expr());
        }
        Node::JsonBehavior(n) => {
            out.push(n.expr());
        }
        Node::NullTest(n) => {
            out.push(n.arg());
        }
        Node::BooleanTest(n) => {
            out.push(n.arg());
        }
        Node::JoinExpr(n) => {
            out.push(n.larg());
            out.push(n.rarg());
            out.push(n.quals());
        }
        Node::TypeName(n) => {
            out.extend(n.typmods().iter());
            out.extend(n.array_bounds().iter());
        }
        Node::A_Expr(n) => {
            out.push(n.lexpr());
            out.push(n.rexpr());
        }
        Node::TypeCast(n) => {
            out.push(n.arg());
            out.push(n.type_name().into());
        }
        Node::CollateClause(n) => {
            out.push(n.arg());
        }
        Node::FuncCall(n) => {
            out.extend(n.args().iter());
            out.extend(n.agg_order().iter().map(Node::from));
            out.push(n.agg_filter());
            out.push(n.over().into());
        }
        Node::A_Indices(n) => {
            out.push(n.lidx());
            out.push(n.uidx());
        }
        Node::A_Indirection(n) => {
            out.push(n.arg());
            out.extend(n.indirection().iter());
        }
        Node::A_ArrayExpr(n) => {
            out.extend(n.elements().iter());
        }
        Node::ResTarget(n) => {
            out.extend(n.indirection().iter());
            out.push(n.val());
        }
        Node::MultiAssignRef(n) => {
            out.push(n.source());
        }
        Node::SortBy(n) => {
            out.push(n.node());
        }
        Node::WindowDef(n) => {
            out.extend(n.partition_clause().iter());
            out.extend(n.order_clause().iter().map(Node::from));
            out.push(n.start_offset());
            out.push(n.end_offset());
        }
        Node::RangeSubselect(n) => {
            out.push(n.subquery());
        }
        Node::RangeFunction(n) => {
            out.extend(n.functions().iter());
            out.extend(n.coldeflist().iter().map(Node::from));
        }
        Node::RangeTableFunc(n) => {
            out.push(n.docexpr());
            out.push(n.rowexpr());
            out.extend(n.namespaces().iter());
            out.extend(n.columns().iter().map(Node::from));
        }
        Node::RangeTableFuncCol(n) => {
            out.push(n.type_name().into());
            out.push(n.colexpr());
            out.push(n.coldefexpr());
        }
        Node::RangeTableSample(n) => {
            out.push(n.relation());
            out.extend(n.args().iter());
            out.push(n.repeatable());
        }
        Node::ColumnDef(n) => {
            out.push(n.type_name().into());
            out.push(n.raw_default());
            out.push(n.cooked_default());
            out.push(n.identity_sequence().into());
            out.push(n.coll_clause().into());
            out.extend(n.constraints().iter());
            out.extend(n.fdwoptions().iter());
        }
        Node::TableLikeClause(n) => {
            out.push(n.relation().into());
        }
        Node::IndexElem(n) => {
            out.push(n.expr());
            out.extend(n.collation().iter());
            out.extend(n.opclass().iter());
            out.extend(n.opclassopts().iter());
        }
        Node::DefElem(n) => {
            out.push(n.arg());
        }
        Node::XmlSerialize(n) => {
            out.push(n.expr());
            out.push(n.type_name().into());
        }
        Node::PartitionElem(n) => {
            out.push(n.expr());
            out.extend(n.collation().iter());
            out.extend(n.opclass().iter());
        }
        Node::PartitionSpec(n) => {
            out.extend(n.part_params().iter().map(Node::from));
        }
        Node::PartitionBoundSpec(n) => {
            out.extend(n.listdatums().iter());
            out.extend(n.lowerdatums().iter());
            out.extend(n.upperdatums().iter());
        }
        Node::PartitionRangeDatum(n) => {
            out.push(n.value());
        }
        Node::PartitionCmd(n) => {
            out.push(n.name().into());
            out.push(n.bound().into());
        }
        Node::GroupingSet(n) => {
            out.extend(n.content().iter());
        }
        Node::WithClause(n) => {
            out.extend(n.ctes().iter().map(Node::from));
        }
        Node::InferClause(n) => {
            out.extend(n.index_elems().iter());
            out.push(n.where_clause());
        }
        Node::OnConflictClause(n) => {
            out.push(n.infer().into());
            out.extend(n.target_list().iter().map(Node::from));
            out.push(n.where_clause());
        }
        Node::CTESearchClause(n) => {
            out.extend(n.search_col_list().iter());
        }
        Node::CTECycleClause(n) => {
            out.extend(n.cycle_col_list().iter());
            out.push(n.cycle_mark_value());
            out.push(n.cycle_mark_default());
        }
        Node::CommonTableExpr(n) => {
            out.extend(n.aliascolnames().iter());
            out.push(n.ctequery());
            out.push(n.search_clause().into());
            out.push(n.cycle_clause().into());
            out.extend(n.ctecolnames().iter());
        }
        Node::MergeWhenClause(n) => {
            out.push(n.condition());
            out.extend(n.target_list().iter());
            out.extend(n.values().iter());
        }
        Node::ReturningClause(n) => {
            out.extend(n.options().iter().map(Node::from));
            out.extend(n.exprs().iter());
        }
        Node::JsonOutput(n) => {
            out.push(n.type_name().into());
        }
        Node::JsonArgument(n) => {
            out.push(n.val().into());
        }
        Node::JsonFuncExpr(n) => {
            out.push(n.context_item().into());
            out.push(n.pathspec());
            out.extend(n.passing().iter());
            out.push(n.output().into());
            out.push(n.on_empty().into());
            out.push(n.on_error().into());
        }
        Node::JsonTablePathSpec(n) => {
            out.push(n.string());
        }
        Node::JsonTable(n) => {
            out.push(n.context_item().into());
            out.push(n.pathspec().into());
            out.extend(n.passing().iter());
            out.extend(n.columns().iter().map(Node::from));
            out.push(n.on_error().into());
        }
        Node::JsonTableColumn(n) => {
            out.push(n.type_name().into());
            out.push(n.pathspec().into());
            out.extend(n.columns().iter());
            out.push(n.on_empty().into());
            out.push(n.on_error().into());
        }
        Node::JsonKeyValue(n) => {
            out.push(n.key());
            out.push(n.value().into());
        }
        Node::JsonParseExpr(n) => {
            out.push(n.expr().into());
            out.push(n.output().into());
        }
        Node::JsonScalarExpr(n) => {
            out.push(n.expr());
            out.push(n.output().into());
        }
        Node::JsonSerializeExpr(n) => {
            out.push(n.expr().into());
            out.push(n.output().into());
        }
        Node::JsonObjectConstructor(n) => {
            out.extend(n.exprs().iter().map(Node::from));
            out.push(n.output().into());
        }
        Node::JsonArrayConstructor(n) => {
            out.extend(n.exprs().iter().map(Node::from));
            out.push(n.output().into());
        }
        Node::JsonArrayQueryConstructor(n) => {
            out.push(n.query());
            out.push(n.output().into());
        }
        Node::JsonAggConstructor(n) => {
            out.push(n.output().into());
            out.push(n.agg_filter());
            out.extend(n.agg_order().iter());
            out.push(n.over().into());
        }
        Node::JsonObjectAgg(n) => {
            out.push(n.constructor().into());
            out.push(n.arg().into());
        }
        Node::JsonArrayAgg(n) => {
            out.push(n.constructor().into());
            out.push(n.arg().into());
        }
        Node::RawStmt(n) => {
            out.push(n.stmt());
        }
        Node::InsertStmt(n) => {
            out.push(n.relation().into());
            out.extend(n.cols().iter());
            out.push(n.select_stmt());
            out.push(n.on_conflict_clause().into());
            out.push(n.returning_clause().into());
            out.push(n.with_clause().into());
        }
        Node::DeleteStmt(n) => {
            out.push(n.relation().into());
            out.extend(n.using_clause().iter());
            out.push(n.where_clause());
            out.push(n.returning_clause().into());
            out.push(n.with_clause().into());
        }
        Node::UpdateStmt(n) => {
            out.push(n.relation().into());
            out.extend(n.target_list().iter().map(Node::from));
            out.push(n.where_clause());
            out.extend(n.from_clause().iter());
            out.push(n.returning_clause().into());
            out.push(n.with_clause().into());
        }
        Node::MergeStmt(n) => {
            out.push(n.relation().into());
            out.push(n.source_relation());
            out.push(n.join_condition());
            out.extend(n.merge_when_clauses().iter().map(Node::from));
            out.push(n.returning_clause().into());
            out.push(n.with_clause().into());
        }
        Node::SelectStmt(n) => {
            out.extend(n.distinct_clause().iter());
            out.push(n.into_clause().into());
            out.extend(n.target_list().iter().map(Node::from));
            out.extend(n.from_clause().iter());
            out.push(n.where_clause());
            out.extend(n.group_clause().iter());
            out.push(n.having_clause());
            out.extend(n.window_clause().iter());
            out.extend(n.values_lists().iter());
            out.extend(n.sort_clause().iter().map(Node::from));
            out.push(n.limit_offset());
            out.push(n.limit_count());
            out.extend(n.locking_clause().iter().map(Node::from));
            out.push(n.with_clause().into());
            out.push(n.larg().into());
            out.push(n.rarg().into());
        }
        Node::ReturnStmt(n) => {
            out.push(n.returnval());
        }
        Node::CreateSchemaStmt(n) => {
            out.extend(n.schema_elts().iter());
        }
        Node::AlterTableStmt(n) => {
            out.push(n.relation().into());
            out.extend(n.cmds().iter());
        }
        Node::AlterTableCmd(n) => {
            out.push(n.def());
        }
        Node::AlterCollationStmt(n) => {
            out.extend(n.collname().iter());
        }
        Node::AlterDomainStmt(n) => {
            out.extend(n.type_name().iter());
            out.push(n.def());
        }
        Node::GrantStmt(n) => {
            out.extend(n.privileges().iter().map(Node::from));
            out.extend(n.grantees().iter().map(Node::from));
        }
        Node::ObjectWithArgs(n) => {
            out.extend(n.objname().iter());
            out.extend(n.objargs().iter());
            out.extend(n.objfuncargs().iter().map(Node::from));
        }
        Node::GrantRoleStmt(n) => {
            out.extend(n.granted_roles().iter());
            out.extend(n.grantee_roles().iter());
            out.extend(n.opt().iter());
        }
        Node::AlterDefaultPrivilegesStmt(n) => {
            out.extend(n.options().iter().map(Node::from));
            out.push(n.action().into());
        }
        Node::CopyStmt(n) => {
            out.push(n.relation().into());
            out.push(n.query());
            out.extend(n.attlist().iter());
            out.extend(n.options().iter().map(Node::from));
            out.push(n.where_clause());
        }
        Node::VariableSetStmt(n) => {
            out.extend(n.args().iter());
        }
        Node::CreateStmt(n) => {
            out.push(n.relation().into());
            out.extend(n.table_elts().iter());
            out.extend(n.inh_relations().iter());
            out.push(n.partbound().into());
            out.push(n.partspec().into());
            out.push(n.of_typename().into());
            out.extend(n.constraints().iter().map(Node::from));
            out.extend(n.nnconstraints().iter());
            out.extend(n.options().iter());
        }
        Node::Constraint(n) => {
            out.push(n.raw_expr());
            out.extend(n.keys().iter());
            out.extend(n.including().iter());
            out.extend(n.exclusions().iter());
            out.extend(n.options().iter());
            out.push(n.where_clause());
            out.push(n.pktable().into());
            out.extend(n.fk_attrs().iter());
            out.extend(n.pk_attrs().iter());
            out.extend(n.fk_del_set_cols().iter());
            out.extend(n.old_conpfeqop().iter());
        }
        Node::CreateTableSpaceStmt(n) => {
            out.extend(n.options().iter());
        }
        Node::AlterTableSpaceOptionsStmt(n) => {
            out.extend(n.options().iter());
        }
        Node::AlterTableMoveAllStmt(n) => {
            out.extend(n.roles().iter());
        }
        Node::CreateExtensionStmt(n) => {
            out.extend(n.options().iter().map(Node::from));
        }
        Node::AlterExtensionStmt(n) => {
            out.extend(n.options().iter().map(Node::from));
        }
        Node::AlterExtensionContentsStmt(n) => {
            out.push(n.object());
        }
        Node::CreateFdwStmt(n) => {
            out.extend(n.func_options().iter());
            out.extend(n.options().iter());
        }
        Node::AlterFdwStmt(n) => {
            out.extend(n.func_options().iter());
            out.extend(n.options().iter());
        }
        Node::CreateForeignServerStmt(n) => {
            out.extend(n.options().iter());
        }
        Node::AlterForeignServerStmt(n) => {
            out.extend(n.options().iter());
        }
        Node::CreateUserMappingStmt(n) => {
            out.extend(n.options().iter());
        }
        Node::AlterUserMappingStmt(n) => {
            out.extend(n.options().iter());
        }
        Node::ImportForeignSchemaStmt(n) => {
            out.extend(n.table_list().iter().map(Node::from));
            out.extend(n.options().iter());
        }
        Node::CreatePolicyStmt(n) => {
            out.push(n.table().into());
            out.extend(n.roles().iter());
            out.push(n.qual());
            out.push(n.with_check());
        }
        Node::AlterPolicyStmt(n) => {
            out.push(n.table().into());
            out.extend(n.roles().iter());
            out.push(n.qual());
            out.push(n.with_check());
        }
        Node::CreateAmStmt(n) => {
            out.extend(n.handler_name().iter());
        }
        Node::CreateTrigStmt(n) => {
            out.push(n.relation().into());
            out.extend(n.funcname().iter());
            out.extend(n.columns().iter());
            out.push(n.when_clause());
            out.extend(n.transition_rels().iter());
            out.push(n.constrrel().into());
        }
        Node::CreateEventTrigStmt(n) => {
            out.extend(n.whenclause().iter().map(Node::from));
            out.extend(n.funcname().iter());
        }
        Node::CreatePLangStmt(n) => {
            out.extend(n.plhandler().iter());
            out.extend(n.plinline().iter());
            out.extend(n.plvalidator().iter());
        }
        Node::CreateRoleStmt(n) => {
            out.extend(n.options().iter().map(Node::from));
        }
        Node::AlterRoleStmt(n) => {
            out.extend(n.options().iter().map(Node::from));
        }
        Node::AlterRoleSetStmt(n) => {
            out.push(n.setstmt().into());
        }
        Node::DropRoleStmt(n) => {
            out.extend(n.roles().iter());
        }
        Node::CreateSeqStmt(n) => {
            out.push(n.sequence().into());
            out.extend(n.options().iter());
        }
        Node::AlterSeqStmt(n) => {
            out.push(n.sequence().into());
            out.extend(n.options().iter());
        }
        Node::DefineStmt(n) => {
            out.extend(n.args().iter());
            out.extend(n.definition().iter().map(Node::from));
        }
        Node::CreateDomainStmt(n) => {
            out.push(n.type_name().into());
            out.push(n.coll_clause().into());
            out.extend(n.constraints().iter().map(Node::from));
        }
        Node::CreateOpClassStmt(n) => {
            out.extend(n.opfamilyname().iter());
            out.push(n.datatype().into());
            out.extend(n.items().iter().map(Node::from));
        }
        Node::CreateOpClassItem(n) => {
            out.push(n.name().into());
            out.extend(n.order_family().iter());
            out.extend(n.class_args().iter());
            out.push(n.storedtype().into());
        }
        Node::AlterOpFamilyStmt(n) => {
            out.extend(n.items().iter().map(Node::from));
        }
        Node::DropStmt(n) => {
            out.extend(n.objects().iter());
        }
        Node::TruncateStmt(n) => {
            out.extend(n.relations().iter());
        }
        Node::CommentStmt(n) => {
            out.push(n.object());
        }
        Node::SecLabelStmt(n) => {
            out.push(n.object());
        }
        Node::DeclareCursorStmt(n) => {
            out.push(n.query());
        }
        Node::IndexStmt(n) => {
            out.push(n.relation().into());
            out.extend(n.index_params().iter().map(Node::from));
            out.extend(n.index_including_params().iter());
            out.extend(n.options().iter().map(Node::from));
            out.push(n.where_clause());
            out.extend(n.exclude_op_names().iter());
        }
        Node::CreateStatsStmt(n) => {
            out.extend(n.exprs().iter());
        }
        Node::StatsElem(n) => {
            out.push(n.expr());
        }
        Node::AlterStatsStmt(n) => {
            out.push(n.stxstattarget());
        }
        Node::CreateFunctionStmt(n) => {
            out.extend(n.funcname().iter());
            out.extend(n.parameters().iter().map(Node::from));
            out.push(n.return_type().into());
            out.extend(n.options().iter().map(Node::from));
            out.push(n.sql_body());
        }
        Node::FunctionParameter(n) => {
            out.push(n.arg_type().into());
            out.push(n.defexpr());
        }
        Node::AlterFunctionStmt(n) => {
            out.push(n.func().into());
            out.extend(n.actions().iter().map(Node::from));
        }
        Node::DoStmt(n) => {
            out.extend(n.args().iter().map(Node::from));
        }
        Node::CallStmt(n) => {
            out.push(n.funccall().into());
            out.extend(n.outargs().iter());
        }
        Node::RenameStmt(n) => {
            out.push(n.relation().into());
            out.push(n.object());
        }
        Node::AlterObjectDependsStmt(n) => {
            out.push(n.relation().into());
            out.push(n.object());
            out.push(n.extname().into());
        }
        Node::AlterObjectSchemaStmt(n) => {
            out.push(n.relation().into());
            out.push(n.object());
        }
        Node::AlterOwnerStmt(n) => {
            out.push(n.relation().into());
            out.push(n.object());
        }
        Node::AlterOperatorStmt(n) => {
            out.push(n.opername().into());
            out.extend(n.options().iter().map(Node::from));
        }
        Node::AlterTypeStmt(n) => {
            out.extend(n.type_name().iter());
            out.extend(n.options().iter().map(Node::from));
        }
        Node::RuleStmt(n) => {
            out.push(n.relation().into());
            out.push(n.where_clause());
            out.extend(n.actions().iter());
        }
        Node::TransactionStmt(n) => {
            out.extend(n.options().iter());
        }
        Node::CompositeTypeStmt(n) => {
            out.push(n.typevar().into());
            out.extend(n.coldeflist().iter().map(Node::from));
        }
        Node::CreateRangeStmt(n) => {
            out.extend(n.params().iter().map(Node::from));
        }
        Node::ViewStmt(n) => {
            out.push(n.view().into());
            out.extend(n.aliases().iter());
            out.push(n.query());
            out.extend(n.options().iter());
        }
        Node::CreatedbStmt(n) => {
            out.extend(n.options().iter().map(Node::from));
        }
        Node::AlterDatabaseStmt(n) => {
            out.extend(n.options().iter().map(Node::from));
        }
        Node::AlterDatabaseSetStmt(n) => {
            out.push(n.setstmt().into());
        }
        Node::DropdbStmt(n) => {
            out.extend(n.options().iter());
        }
        Node::AlterSystemStmt(n) => {
            out.push(n.setstmt().into());
        }
        Node::ClusterStmt(n) => {
            out.push(n.relation().into());
            out.extend(n.params().iter().map(Node::from));
        }
        Node::VacuumStmt(n) => {
            out.extend(n.options().iter().map(Node::from));
            out.extend(n.rels().iter().map(Node::from));
        }
        Node::VacuumRelation(n) => {
            out.push(n.relation().into());
            out.extend(n.va_cols().iter());
        }
        Node::ExplainStmt(n) => {
            out.push(n.query());
            out.extend(n.options().iter().map(Node::from));
        }
        Node::CreateTableAsStmt(n) => {
            out.push(n.query());
            out.push(n.into().into());
        }
        Node::RefreshMatViewStmt(n) => {
            out.push(n.relation().into());
        }
        Node::LockStmt(n) => {
            out.extend(n.relations().iter());
        }
        Node::ConstraintsSetStmt(n) => {
            out.extend(n.constraints().iter());
        }
        Node::ReindexStmt(n) => {
            out.push(n.relation().into());
            out.extend(n.params().iter().map(Node::from));
        }
        Node::CreateConversionStmt(n) => {
            out.extend(n.conversion_name().iter());
            out.extend(n.func_name().iter());
        }
        Node::CreateCastStmt(n) => {
            out.push(n.sourcetype().into());
            out.push(n.targettype().into());
            out.push(n.func().into());
        }
        Node::CreateTransformStmt(n) => {
            out.push(n.type_name().into());
            out.push(n.fromsql().into());
            out.push(n.tosql().into());
        }
        Node::PrepareStmt(n) => {
            out.extend(n.argtypes().iter().map(Node::from));
            out.push(n.query());
        }
        Node::ExecuteStmt(n) => {
            out.extend(n.params().iter());
        }
        Node::DropOwnedStmt(n) => {
            out.extend(n.roles().iter());
        }
        Node::ReassignOwnedStmt(n) => {
            out.extend(n.roles().iter());
        }
        Node::AlterTSDictionaryStmt(n) => {
            out.extend(n.options().iter().map(Node::from));
        }
        Node::AlterTSConfigurationStmt(n) => {
            out.extend(n.tokentype().iter());
            out.extend(n.dicts().iter());
        }
        Node::PublicationTable(n) => {
            out.push(n.relation().into());
            out.push(n.where_clause());
            out.extend(n.columns().iter());
        }
        Node::PublicationObjSpec(n) => {
            out.push(n.pubtable().into());
        }
        Node::CreatePublicationStmt(n) => {
            out.extend(n.options().iter().map(Node::from));
            out.extend(n.pubobjects().iter());
        }
        Node::AlterPublicationStmt(n) => {
            out.extend(n.options().iter().map(Node::from));
            out.extend(n.pubobjects().iter());
        }
        Node::CreateSubscriptionStmt(n) => {
            out.extend(n.publication().iter());
            out.extend(n.options().iter().map(Node::from));
        }
        Node::AlterSubscriptionStmt(n) => {
            out.extend(n.publication().iter());
            out.extend(n.options().iter().map(Node::from));
        }
        Node::RangeVar(_)
        | Node::MergeSupportFunc(_)
        | Node::SQLValueFunction(_)
        | Node::JsonFormat(_)
        | Node::JsonReturning(_)
        | Node::SetToDefault(_)
        | Node::CurrentOfExpr(_)
        | Node::Integer(_)
        | Node::Float(_)
        | Node::Boolean(_)
        | Node::String(_)
        | Node::BitString(_)
        | Node::ColumnRef(_)
        | Node::ParamRef(_)
        | Node::A_Const(_)
        | Node::RoleSpec(_)
        | Node::A_Star(_)
        | Node::LockingClause(_)
        | Node::ReturningOption(_)
        | Node::TriggerTransition(_)
        | Node::ATAlterConstraint(_)
        | Node::ReplicaIdentityStmt(_)
        | Node::AccessPriv(_)
        | Node::VariableShowStmt(_)
        | Node::DropTableSpaceStmt(_)
        | Node::DropUserMappingStmt(_)
        | Node::AlterEventTrigStmt(_)
        | Node::CreateOpFamilyStmt(_)
        | Node::ClosePortalStmt(_)
        | Node::FetchStmt(_)
        | Node::NotifyStmt(_)
        | Node::ListenStmt(_)
        | Node::UnlistenStmt(_)
        | Node::CreateEnumStmt(_)
        | Node::AlterEnumStmt(_)
        | Node::LoadStmt(_)
        | Node::AlterDatabaseRefreshCollStmt(_)
        | Node::CheckPointStmt(_)
        | Node::DiscardStmt(_)
        | Node::DeallocateStmt(_)
        | Node::DropSubscriptionStmt(_) => {}
        Node::Bitmapset(_)
        | Node::TableFunc(_)
        | Node::Param(_)
        | Node::Aggref(_)
        | Node::WindowFunc(_)
        | Node::WindowFuncRunCondition(_)
        | Node::SubscriptingRef(_)
        | Node::FuncExpr(_)
        | Node::OpExpr(_)
        | Node::ScalarArrayOpExpr(_)
        | Node::SubPlan(_)
        | Node::AlternativeSubPlan(_)
        | Node::FieldSelect(_)
        | Node::FieldStore(_)
        | Node::CoerceViaIO(_)
        | Node::ArrayCoerceExpr(_)
        | Node::ConvertRowtypeExpr(_)
        | Node::CollateExpr(_)
        | Node::CaseTestExpr(_)
        | Node::ArrayExpr(_)
        | Node::RowCompareExpr(_)
        | Node::JsonConstructorExpr(_)
        | Node::JsonExpr(_)
        | Node::MergeAction(_)
        | Node::CoerceToDomain(_)
        | Node::CoerceToDomainValue(_)
        | Node::NextValueExpr(_)
        | Node::InferenceElem(_)
        | Node::ReturningExpr(_)
        | Node::TargetEntry(_)
        | Node::RangeTblRef(_)
        | Node::FromExpr(_)
        | Node::OnConflictExpr(_)
        | Node::Query(_)
        | Node::RangeTblEntry(_)
        | Node::RTEPermissionInfo(_)
        | Node::RangeTblFunction(_)
        | Node::TableSampleClause(_)
        | Node::WithCheckOption(_)
        | Node::SortGroupClause(_)
        | Node::WindowClause(_)
        | Node::RowMarkClause(_)
        | Node::SetOperationStmt(_)
        | Node::PLAssignStmt(_)
        | Node::InlineCodeBlock(_)
        | Node::CallContext(_)
        | Node::Invalid(_) => return Err(Unknown),
    }
    Ok(())
}
