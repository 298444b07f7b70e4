//! What is known of PostgreSQL itself: which built-in functions, catalogue relations, types and settings cannot carry a user's data.
//!
//! Not configuration, and not a list of dangerous things: everything here is *allowed*, whatever is absent is not proved.
//! Invariant: nothing listed in [`PURE_FUNCTIONS`] reads a table, runs text as SQL, or reads a server file; nothing listed in
//! [`SYSTEM_RELATIONS`] holds values, statement texts or secrets of users, but for what [`definitions`] and [`defines`] name. Every list is sorted (a test holds it).
//! Source: pg_proc.dat, system_views.sql and guc_tables.c of PostgreSQL 13–18.

use std::sync::LazyLock;

use pg_raw_parse::list::NodeList;
use pg_raw_parse::{Node, nodes};

use super::literal;
use crate::catalog::Table;
use crate::mask::Text;

/// `name` is in a sorted list.
pub(crate) fn listed(list: &[&str], name: &str) -> bool {
    list.binary_search(&name).is_ok()
}

/// Built-ins whose result derives from their arguments, the clock, the session or the system catalogue only.
#[rustfmt::skip]
pub(crate) const PURE_FUNCTIONS: &[&str] = &[
    "abbrev", "abs", "acldefault", "aclexplode", "acos", "acosd", "acosh", "age", "amvalidate", "any_value", "area",
    "array_agg", "array_append", "array_cat", "array_dims", "array_fill", "array_length", "array_lower", "array_ndims",
    "array_position", "array_positions", "array_prepend", "array_remove", "array_replace", "array_reverse", "array_sample",
    "array_shuffle", "array_sort", "array_to_json", "array_to_string", "array_to_tsvector", "array_upper", "ascii", "asin",
    "asind", "asinh", "atan", "atan2", "atan2d", "atand", "atanh", "avg", "bit_and", "bit_count", "bit_length", "bit_or",
    "bit_xor", "bool", "bool_and", "bool_or", "bound_box", "box", "bpchar", "btrim", "cardinality", "casefold", "cbrt", "ceil",
    "ceiling", "center", "char", "char_length", "character_length", "chr", "circle", "clock_timestamp", "col_description",
    "concat", "concat_ws", "convert", "convert_from", "convert_to", "corr", "cos", "cosd", "cosh", "cot", "cotd", "count",
    "covar_pop", "covar_samp", "crc32", "crc32c", "cume_dist", "current_catalog", "current_database", "current_date",
    "current_role", "current_schema", "current_schemas", "current_setting", "current_time", "current_timestamp", "current_user",
    "date", "date_add", "date_bin", "date_part", "date_subtract", "date_trunc", "datemultirange", "daterange", "decode",
    "degrees", "dense_rank", "diagonal", "diameter", "div", "encode", "enum_first", "enum_last", "enum_range", "erf", "erfc",
    "every", "exp", "extract", "factorial", "family", "first_value", "float4", "float8", "floor", "format", "format_type",
    "gamma", "gcd", "gen_random_uuid", "generate_series", "generate_subscripts", "get_bit", "get_byte", "get_current_ts_config",
    "getdatabaseencoding", "getpgusername", "greatest", "grouping", "has_any_column_privilege", "has_column_privilege",
    "has_database_privilege", "has_foreign_data_wrapper_privilege", "has_function_privilege", "has_language_privilege",
    "has_parameter_privilege", "has_schema_privilege", "has_sequence_privilege", "has_server_privilege", "has_table_privilege",
    "has_tablespace_privilege", "has_type_privilege", "hashtext", "height", "host", "hostmask", "icu_unicode_version",
    "inet_client_addr", "inet_client_port", "inet_merge", "inet_same_family", "inet_server_addr", "inet_server_port", "initcap",
    "int2", "int4", "int4multirange", "int4range", "int8", "int8multirange", "int8range", "interval", "isclosed", "isempty",
    "isfinite", "isopen", "json_agg", "json_agg_strict", "json_array_elements", "json_array_elements_text", "json_array_length",
    "json_build_array", "json_build_object", "json_each", "json_each_text", "json_extract_path", "json_extract_path_text",
    "json_object", "json_object_agg", "json_object_agg_strict", "json_object_agg_unique", "json_object_agg_unique_strict",
    "json_object_keys", "json_populate_record", "json_populate_recordset", "json_scalar", "json_serialize", "json_strip_nulls",
    "json_to_record", "json_to_recordset", "json_to_tsvector", "json_typeof", "jsonb_agg", "jsonb_agg_strict",
    "jsonb_array_elements", "jsonb_array_elements_text", "jsonb_array_length", "jsonb_build_array", "jsonb_build_object",
    "jsonb_each", "jsonb_each_text", "jsonb_extract_path", "jsonb_extract_path_text", "jsonb_insert", "jsonb_object",
    "jsonb_object_agg", "jsonb_object_agg_strict", "jsonb_object_agg_unique", "jsonb_object_agg_unique_strict",
    "jsonb_object_keys", "jsonb_path_exists", "jsonb_path_exists_tz", "jsonb_path_match", "jsonb_path_match_tz",
    "jsonb_path_query", "jsonb_path_query_array", "jsonb_path_query_array_tz", "jsonb_path_query_first",
    "jsonb_path_query_first_tz", "jsonb_path_query_tz", "jsonb_populate_record", "jsonb_populate_recordset", "jsonb_pretty",
    "jsonb_set", "jsonb_set_lax", "jsonb_strip_nulls", "jsonb_to_record", "jsonb_to_recordset", "jsonb_to_tsvector",
    "jsonb_typeof", "justify_days", "justify_hours", "justify_interval", "lag", "last_value", "lcm", "lead", "least", "left",
    "length", "lgamma", "like_escape", "line", "ln", "localtime", "localtimestamp", "log", "log10", "lower", "lower_inc",
    "lower_inf", "lpad", "lseg", "ltrim", "make_date", "make_interval", "make_time", "make_timestamp", "make_timestamptz",
    "makeaclitem", "masklen", "max", "md5", "min", "min_scale", "mod", "mode", "multirange", "mxid_age", "name", "netmask",
    "network", "normalize", "now", "npoints", "nth_value", "ntile", "nullif", "num_nonnulls", "num_nulls", "numeric",
    "nummultirange", "numnode", "numrange", "obj_description", "octet_length", "overlaps", "overlay", "parse_ident", "path",
    "pclose", "percent_rank", "percentile_cont", "percentile_disc", "pg_backend_pid", "pg_blocking_pids", "pg_char_to_encoding",
    "pg_client_encoding", "pg_collation_actual_version", "pg_collation_for", "pg_collation_is_visible", "pg_column_compression",
    "pg_column_is_updatable", "pg_conf_load_time", "pg_conversion_is_visible", "pg_current_snapshot",
    "pg_current_wal_insert_lsn", "pg_current_wal_lsn", "pg_current_xact_id", "pg_current_xact_id_if_assigned",
    "pg_database_collation_actual_version", "pg_database_size", "pg_describe_object", "pg_encoding_max_length",
    "pg_encoding_to_char", "pg_function_is_visible", "pg_get_catalog_foreign_keys", "pg_get_constraintdef", "pg_get_expr",
    "pg_get_function_arg_default", "pg_get_function_arguments", "pg_get_function_identity_arguments", "pg_get_function_result",
    "pg_get_function_sqlbody", "pg_get_functiondef", "pg_get_indexdef", "pg_get_keywords", "pg_get_partition_constraintdef",
    "pg_get_partkeydef", "pg_get_publication_tables", "pg_get_replica_identity_index", "pg_get_ruledef",
    "pg_get_serial_sequence", "pg_get_statisticsobjdef", "pg_get_statisticsobjdef_columns", "pg_get_triggerdef",
    "pg_get_userbyid", "pg_get_viewdef", "pg_has_role", "pg_identify_object", "pg_identify_object_as_address",
    "pg_index_column_has_property", "pg_index_has_property", "pg_indexam_has_property", "pg_indexes_size",
    "pg_is_in_recovery", "pg_is_other_temp_schema", "pg_is_wal_replay_paused", "pg_jit_available", "pg_last_committed_xact",
    "pg_last_wal_receive_lsn", "pg_last_wal_replay_lsn", "pg_last_xact_replay_timestamp", "pg_my_temp_schema",
    "pg_opclass_is_visible", "pg_operator_is_visible", "pg_opfamily_is_visible", "pg_options_to_table",
    "pg_partition_ancestors", "pg_partition_root", "pg_partition_tree", "pg_postmaster_start_time", "pg_relation_filenode",
    "pg_relation_is_publishable", "pg_relation_is_updatable", "pg_relation_size", "pg_sequence_last_value",
    "pg_sequence_parameters", "pg_show_all_settings", "pg_size_bytes", "pg_size_pretty", "pg_snapshot_xmax", "pg_snapshot_xmin",
    "pg_stat_get_blocks_fetched", "pg_stat_get_blocks_hit", "pg_stat_get_db_numbackends", "pg_stat_get_db_xact_commit",
    "pg_stat_get_dead_tuples", "pg_stat_get_live_tuples", "pg_stat_get_mod_since_analyze", "pg_stat_get_numscans",
    "pg_stat_get_tuples_deleted", "pg_stat_get_tuples_fetched", "pg_stat_get_tuples_inserted", "pg_stat_get_tuples_returned",
    "pg_stat_get_tuples_updated", "pg_statistics_obj_is_visible", "pg_table_is_visible", "pg_table_size",
    "pg_tablespace_databases", "pg_tablespace_location", "pg_tablespace_size", "pg_total_relation_size", "pg_trigger_depth",
    "pg_ts_config_is_visible", "pg_ts_dict_is_visible", "pg_ts_parser_is_visible", "pg_ts_template_is_visible",
    "pg_type_is_visible", "pg_typeof", "pg_visible_in_snapshot", "pg_wal_lsn_diff", "pg_xact_status", "phraseto_tsquery", "pi",
    "plainto_tsquery", "point", "polygon", "popen", "position", "power", "querytree", "quote_ident", "quote_literal",
    "quote_nullable", "radians", "radius", "random", "random_normal", "range_agg", "range_intersect_agg", "range_merge", "rank",
    "regexp_count", "regexp_instr", "regexp_like", "regexp_match", "regexp_matches", "regexp_replace", "regexp_split_to_array",
    "regexp_split_to_table", "regexp_substr", "regr_avgx", "regr_avgy", "regr_count", "regr_intercept", "regr_r2", "regr_slope",
    "regr_sxx", "regr_sxy", "regr_syy", "repeat", "replace", "reverse", "right", "round", "row_number", "row_security_active",
    "row_to_json", "rpad", "rtrim", "scale", "session_user", "set_bit", "set_byte", "set_masklen", "setweight", "sha224",
    "sha256", "sha384", "sha512", "shobj_description", "sign", "similar_escape", "similar_to_escape", "sin", "sind", "sinh",
    "slope", "split_part", "sqrt", "starts_with", "statement_timestamp", "stddev", "stddev_pop", "stddev_samp", "string_agg",
    "string_to_array", "string_to_table", "strip", "strpos", "substr", "substring", "sum", "system_user", "tan", "tand", "tanh",
    "text", "time", "timeofday", "timestamp", "timestamptz", "timetz", "timezone", "to_ascii", "to_bin", "to_char", "to_date",
    "to_hex", "to_json", "to_jsonb", "to_number", "to_oct", "to_regclass", "to_regcollation", "to_regnamespace", "to_regoper",
    "to_regoperator", "to_regproc", "to_regprocedure", "to_regrole", "to_regtype", "to_regtypemod", "to_timestamp",
    "to_tsquery", "to_tsvector", "transaction_timestamp", "translate", "trim", "trim_array", "trim_scale", "trunc", "ts_delete",
    "ts_filter", "ts_headline", "ts_rank", "ts_rank_cd", "ts_token_type", "tsmultirange", "tsquery_phrase", "tsrange",
    "tstzmultirange", "tstzrange", "tsvector_to_array", "txid_current", "txid_current_if_assigned", "txid_current_snapshot",
    "txid_snapshot_xmax", "txid_snapshot_xmin", "txid_status", "unicode_assigned", "unicode_version", "unistr", "unnest",
    "upper", "upper_inc", "upper_inf", "uuid_extract_timestamp", "uuid_extract_version", "uuidv4", "uuidv7", "var_pop",
    "var_samp", "varchar", "variance", "version", "websearch_to_tsquery", "width", "width_bucket", "xml_is_well_formed",
    "xml_is_well_formed_content", "xml_is_well_formed_document", "xmlagg", "xmlcomment", "xmltext", "xpath", "xpath_exists",
];

/// Those of [`PURE_FUNCTIONS`] that return rows: in one output column they decide how many rows the others have.
#[rustfmt::skip]
pub(crate) const ROW_FUNCTIONS: &[&str] = &[
    "aclexplode", "generate_series", "generate_subscripts", "json_array_elements", "json_array_elements_text", "json_each",
    "json_each_text", "json_object_keys", "json_populate_recordset", "json_to_recordset", "jsonb_array_elements",
    "jsonb_array_elements_text", "jsonb_each", "jsonb_each_text", "jsonb_object_keys", "jsonb_path_query", "jsonb_path_query_tz",
    "jsonb_populate_recordset", "jsonb_to_recordset", "pg_get_catalog_foreign_keys", "pg_get_keywords",
    "pg_get_publication_tables", "pg_options_to_table", "pg_partition_ancestors", "pg_partition_tree", "pg_tablespace_databases",
    "regexp_matches", "regexp_split_to_table", "string_to_table", "ts_token_type", "unnest",
];

/// Those of [`PURE_FUNCTIONS`] that may answer otherwise when they are called again in the same statement.
const VOLATILE_FUNCTIONS: &[&str] = &[
    "array_sample",
    "array_shuffle",
    "clock_timestamp",
    "gen_random_uuid",
    "random",
    "random_normal",
    "timeofday",
    "uuidv4",
    "uuidv7",
];

/// A built-in function that answers the same as long as it is given the same.
pub(crate) fn stable(function: &str) -> bool {
    listed(PURE_FUNCTIONS, function) && !VOLATILE_FUNCTIONS.contains(&function)
}

/// Those of [`ROW_FUNCTIONS`] that take one value apart: a row for each of its elements.
#[rustfmt::skip]
pub(crate) const ELEMENT_FUNCTIONS: &[&str] = &[
    "json_array_elements", "json_array_elements_text", "json_each", "json_each_text", "json_object_keys", "json_populate_recordset",
    "json_to_recordset", "jsonb_array_elements", "jsonb_array_elements_text", "jsonb_each", "jsonb_each_text", "jsonb_object_keys",
    "jsonb_populate_recordset", "jsonb_to_recordset", "regexp_matches", "regexp_split_to_table", "string_to_table", "unnest",
];

/// A built-in function that answers each call with one row.
pub(crate) fn one_row(function: &str) -> bool {
    let many = listed(ROW_FUNCTIONS, function) || function == "pg_listening_channels";
    !many && (listed(PURE_FUNCTIONS, function) || listed(EFFECT_FUNCTIONS, function))
}

/// A name that stands for a type, or a call with one argument, that is taken to be the server's own: a type of users called so may be
/// found instead, since `f(x)` is a cast where no function takes exactly x.
pub(crate) fn type_or_call(name: &str) -> bool {
    listed(TYPES, name) || listed(PURE_FUNCTIONS, name) || EXTENSION_FUNCTIONS.contains(&name)
}

/// A built-in function that can be called with one argument, `(x).f` and `t.f` among the ways, and is not harmless. Of what is neither this
/// nor a function of users nobody needs to know whether it is a field.
pub(crate) fn acts(function: &str) -> bool {
    // Asked of every column a statement names: by first letter and length nearly none of them can be on a list.
    static LENGTHS: LazyLock<[u64; 256]> = LazyLock::new(|| {
        let mut lengths = [0; 256];
        for name in [EFFECT_FUNCTIONS, TEXT_RUNNERS].concat() {
            if let Some(slot) = name.bytes().next().and_then(|first| lengths.get_mut(usize::from(first))) {
                *slot |= 1 << name.len();
            }
        }
        lengths
    });
    let Some(first) = function.bytes().next() else { return false };
    let lengths = LENGTHS.get(usize::from(first)).copied().unwrap_or(u64::MAX);
    let likely =
        lengths.checked_shr(function.len().try_into().unwrap_or(u32::MAX)).is_some_and(|l| l & 1 == 1);
    let own =
        || ["binary_upgrade_", "brin_", "gin_", "lo_", "pg_"].iter().any(|own| function.starts_with(own));
    (likely && (listed(EFFECT_FUNCTIONS, function) || listed(TEXT_RUNNERS, function)))
        || (matches!(first, b'b' | b'g' | b'l' | b'p') && own() && !listed(PURE_FUNCTIONS, function))
}

/// Those of [`PURE_FUNCTIONS`] that never fail, nor answer NULL for what is not NULL, nor are longer or shorter because of the letters
/// of a value: what they make of a masked column can be masked whole, and no error, no NULL and no size (what a sort writes to disk, how
/// many lines a plan has, where a limit cuts) tells of it. Whether a number overflows is left out of account for
/// sums and means, whose input a statement cannot shape without another function.
#[rustfmt::skip]
pub(crate) const TOTAL_FUNCTIONS: &[&str] = &[
    "abs", "age", "any_value", "array_agg", "array_append", "array_cat", "array_length", "array_prepend", "array_to_json",
    "array_to_string", "ascii", "avg", "bit_length", "bool_and", "bool_or", "bpchar", "cardinality", "ceil",
    "ceiling", "char_length", "character_length", "concat", "concat_ws", "corr", "count", "cume_dist",
    "dense_rank", "every", "family", "first_value", "floor", "hashtext", "host", "initcap",
    "isempty", "isfinite", "json_agg", "json_agg_strict", "json_build_array", "json_build_object", "json_object_agg",
    "json_strip_nulls", "json_typeof", "jsonb_agg", "jsonb_agg_strict", "jsonb_build_array", "jsonb_build_object",
    "jsonb_object_agg", "jsonb_pretty", "jsonb_strip_nulls", "jsonb_typeof", "justify_days", "justify_hours",
    "justify_interval", "last_value", "length", "lower", "lower_inf", "masklen", "max", "md5", "min", "mode",
    "name", "network", "num_nonnulls", "num_nulls", "octet_length", "percent_rank", "pg_collation_for", "pg_typeof",
    "position", "quote_literal", "quote_nullable", "range_agg", "rank", "reverse", "round",
    "row_number", "row_to_json", "sha224", "sha256", "sha384", "sha512", "sign", "starts_with", "stddev",
    "stddev_pop", "stddev_samp", "string_agg", "strip", "strpos", "sum", "text", "to_json", "to_jsonb",
    "trunc", "upper", "upper_inf", "var_pop", "var_samp", "varchar", "variance", "xmlagg", "xmltext",
];

/// Those of [`PURE_FUNCTIONS`] whose being called shows afterwards: in the next number, or by a transaction's number.
pub(crate) const REMEMBERED_FUNCTIONS: &[&str] =
    &["pg_current_xact_id", "random", "random_normal", "txid_current"];

/// Whether a call can neither fail nor answer NULL nor differ in size because of the value of its argument `at`. What else it is given
/// matters: `to_char` fails on a format, `substr` on a negative length, and `rtrim('666…', ssn)` is long or empty.
pub(crate) fn total(function: &str, args: &NodeList, at: usize) -> bool {
    use pg_raw_parse::ConstValue as Value;
    let written = |i: usize| match args.get(i) {
        Some(Node::A_Const(c)) => literal::value(c),
        _ => None,
    };
    let string = |i| match written(i) {
        Some(Value::String(s)) => Some(s),
        _ => None,
    };
    let length = |i| matches!(written(i), Some(Value::Integer(n)) if n >= 0);
    match function {
        // Which part `substring` takes is written out, or it is a pattern that may find nothing.
        "substr" | "substring" => at == 0 && args.len() > 1 && (1..args.len()).all(length),
        "date_part" | "date_trunc" | "extract" => at == 1 && args.len() == 2 && string(0).is_some(),
        "to_char" => at == 0 && string(1).is_some_and(|format| !format.is_empty()),
        "encode" => at == 0 && string(1).is_some(),
        "left" | "right" => at == 0,
        // Spaces at its ends are not what a column is masked for.
        "btrim" | "ltrim" | "rtrim" | "trim" => args.len() == 1,
        // As long as before, but for punctuation: `replace(phone, '-', '')`, `replace(email, '@', ' at ')`.
        "replace" => {
            let short = |from: &str, to: &str| {
                to.len() <= from.len() || (to.len() <= 64 && matches!(args.get(0), Some(Node::ColumnRef(_))))
            };
            let even = |from: &str, to: &str| from.len() == to.len() || punctuation(from) && short(from, to);
            at == 0 && string(1).zip(string(2)).is_some_and(|(from, to)| even(from, to))
        }
        "translate" => {
            let even = |from: &str, to: &str| {
                from.is_ascii() && to.is_ascii() && from.get(to.len()..).is_none_or(punctuation)
            };
            at == 0 && string(1).zip(string(2)).is_some_and(|(from, to)| even(from, to))
        }
        // Cut to a length they may be longer than.
        "bpchar" | "name" | "text" | "varchar" => args.len() == 1,
        // Of bytes in an encoding.
        "length" => args.len() == 1,
        // A key may not be NULL.
        "json_build_object" | "jsonb_build_object" => at % 2 == 1,
        "json_object_agg" | "jsonb_object_agg" => at == 1,
        _ => listed(TOTAL_FUNCTIONS, function),
    }
}

fn punctuation(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_punctuation() || b == b' ')
}

/// Those of [`TOTAL_FUNCTIONS`] that answer with one of several values: among values of different sizes, which one it is shows.
#[rustfmt::skip]
pub(crate) const CHOOSING_FUNCTIONS: &[&str] =
    &["any_value", "first_value", "last_value", "max", "min", "mode"];

/// Those of [`PURE_FUNCTIONS`] that stand in FROM as one column, named as they are called.
#[rustfmt::skip]
pub(crate) const SCALAR_FUNCTIONS: &[&str] = &[
    "concat", "current_database", "current_date", "current_setting", "current_user", "generate_series",
    "generate_subscripts", "json_array_elements", "json_array_elements_text", "json_build_object", "json_object_keys",
    "jsonb_array_elements", "jsonb_array_elements_text", "jsonb_build_object", "jsonb_object_keys", "jsonb_path_query",
    "jsonb_path_query_tz", "lower", "now", "pg_partition_ancestors", "pg_tablespace_databases", "regexp_matches",
    "regexp_split_to_array", "regexp_split_to_table", "string_to_array", "string_to_table", "to_json", "to_jsonb", "upper",
    "version",
];

/// Those of `information_schema` that compute from their arguments only, as drivers call them (JDBC's getPrimaryKeys).
pub(crate) const INFORMATION_FUNCTIONS: &[&str] = &["_pg_expandarray"];

/// `SYSTEM_USER` is a word of the grammar since PostgreSQL 16, and a name like others before.
pub(crate) fn column_before_16(call: &nodes::FuncCall, server_version: u32) -> bool {
    server_version < 160_000
        && call.funcformat == nodes::CoercionForm::COERCE_SQL_SYNTAX
        && call.funcname().get(1).and_then(Node::as_str) == Some("system_user")
}

/// What the only column of one of [`SCALAR_FUNCTIONS`] is called, whatever its alias: an OUT parameter has a name.
pub(crate) fn out_parameter(function: &str) -> Option<&'static str> {
    match function {
        "json_array_elements"
        | "json_array_elements_text"
        | "jsonb_array_elements"
        | "jsonb_array_elements_text" => Some("value"),
        "pg_partition_ancestors" => Some("relid"),
        _ => None,
    }
}

/// A setting that may hold anything: one that the server did not invent, or that sessions call themselves by.
pub(crate) fn of_users(setting: &str) -> bool {
    setting.contains('.') || setting.eq_ignore_ascii_case("application_name")
}

/// Types whose text is the name of what their number stands for at the moment: `reg…`, and arrays of them (pg_type.dat).
#[rustfmt::skip]
pub(crate) const NAMED_TYPES: &[u32] = &[
    24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191,
    1008, 2207, 2208, 2209, 2210, 2211, 3735, 3770, 4090, 4097, 4192,
];

/// A call of `current_setting` for a setting the server invented, by its name.
pub(crate) fn of_server(call: &nodes::FuncCall) -> bool {
    match call.args().first() {
        Some(Node::A_Const(c)) => {
            matches!(literal::value(c), Some(pg_raw_parse::ConstValue::String(name)) if !of_users(name))
        }
        _ => false,
    }
}

/// The columns of those of [`ROW_FUNCTIONS`] that tools select by name.
pub(crate) fn columns_of(function: &str) -> Option<&'static [&'static str]> {
    Some(match function {
        "aclexplode" => &["grantor", "grantee", "privilege_type", "is_grantable"],
        "pg_partition_tree" => &["relid", "parentrelid", "isleaf", "level"],
        "ts_token_type" => &["tokid", "alias", "description"],
        _ => return None,
    })
}

/// Built-ins with an effect outside the statement. Harmless while nothing masked is read by it, a way out when something is.
#[rustfmt::skip]
pub(crate) const EFFECT_FUNCTIONS: &[&str] = &[
    "currval", "lastval", "nextval", "pg_advisory_lock", "pg_advisory_lock_shared", "pg_advisory_unlock",
    "pg_advisory_unlock_all", "pg_advisory_unlock_shared", "pg_advisory_xact_lock", "pg_advisory_xact_lock_shared",
    "pg_cancel_backend", "pg_export_snapshot", "pg_listening_channels", "pg_notify", "pg_sleep", "pg_sleep_for",
    "pg_sleep_until", "pg_stat_clear_snapshot", "pg_terminate_backend", "pg_try_advisory_lock", "pg_try_advisory_lock_shared",
    "pg_try_advisory_xact_lock", "pg_try_advisory_xact_lock_shared", "set_config", "setseed", "setval",
];

/// Built-in and widespread extension functions that run text as SQL or reach files and other servers: no statement class seen by
/// a block rule says what they do.
#[rustfmt::skip]
pub(crate) const TEXT_RUNNERS: &[&str] = &[
    "connectby", "crosstab", "crosstab2", "crosstab3", "crosstab4", "cursor_to_xml", "cursor_to_xmlschema", "database_to_xml",
    "database_to_xml_and_xmlschema", "database_to_xmlschema", "dblink", "dblink_build_sql_delete", "dblink_connect",
    "dblink_connect_u", "dblink_exec", "dblink_fetch", "dblink_get_result", "dblink_open", "dblink_send_query", "exec",
    "lo_creat", "lo_create", "lo_export", "lo_from_bytea", "lo_import", "lo_put", "lo_truncate", "lo_unlink", "lowrite",
    "normal_rand", "pg_backup_start", "pg_backup_stop", "pg_create_logical_replication_slot",
    "pg_create_physical_replication_slot", "pg_create_restore_point", "pg_current_logfile", "pg_execute_server_program",
    "pg_file_read", "pg_file_rename", "pg_file_sync", "pg_file_unlink", "pg_file_write", "pg_logical_emit_message",
    "pg_logical_slot_get_binary_changes", "pg_logical_slot_get_changes", "pg_logical_slot_peek_binary_changes",
    "pg_logical_slot_peek_changes", "pg_ls_archive_statusdir", "pg_ls_dir", "pg_ls_logdir", "pg_ls_tmpdir", "pg_ls_waldir",
    "pg_promote", "pg_read_binary_file", "pg_read_file", "pg_read_server_files", "pg_reload_conf", "pg_rotate_logfile",
    "pg_start_backup", "pg_stat_file", "pg_stop_backup", "pg_switch_wal", "plpgsql_call_handler", "plpgsql_inline_handler",
    "query_to_xml", "query_to_xml_and_xmlschema", "query_to_xmlschema", "run_sql", "schema_to_xml",
    "schema_to_xml_and_xmlschema", "schema_to_xmlschema", "table_to_xml", "table_to_xml_and_xmlschema", "table_to_xmlschema",
    "ts_rewrite", "ts_stat", "xpath_table",
];

/// Functions of common extensions that compute from their arguments only; believed when every function of the name is in C.
#[rustfmt::skip]
pub(crate) const EXTENSION_FUNCTIONS: &[&str] = &[
    "crypt", "difference", "digest", "dmetaphone", "gen_random_bytes", "gen_random_uuid", "gen_salt", "hmac", "hstore", "levenshtein",
    "metaphone", "similarity", "soundex", "strict_word_similarity", "unaccent", "uuid_generate_v1", "uuid_generate_v1mc",
    "uuid_generate_v3", "uuid_generate_v4", "uuid_generate_v5", "uuid_nil", "word_similarity",
];

/// Types of common extensions, and the functions that read their values; believed when every function of the name is in C.
pub(crate) const EXTENSION_TYPES: &[(&str, &str)] = &[
    ("citext", "citextin"),
    ("cube", "cube_in"),
    ("geography", "geography_in"),
    ("geometry", "geometry_in"),
    ("halfvec", "halfvec_in"),
    ("hstore", "hstore_in"),
    ("isbn", "isbn_in"),
    ("ltree", "ltree_in"),
    ("vector", "vector_in"),
];

/// Functions that make one text of texts, the same whatever is set, and cannot be told by anything but their arguments.
#[rustfmt::skip]
pub(crate) const TEXT_MAKERS: &[&str] = &[
    "btrim", "initcap", "left", "lower", "lpad", "ltrim", "md5", "replace", "reverse", "right", "rpad", "rtrim", "split_part", "substr",
    "substring", "translate", "upper",
];

/// Relations of `pg_catalog` that hold structure and counters, not contents.
#[rustfmt::skip]
pub(crate) const SYSTEM_RELATIONS: &[&str] = &[
    "pg_aggregate", "pg_aios", "pg_am", "pg_amop", "pg_amproc", "pg_attrdef", "pg_attribute", "pg_auth_members",
    "pg_available_extension_versions", "pg_available_extensions", "pg_cast", "pg_class", "pg_collation", "pg_config",
    "pg_constraint", "pg_conversion", "pg_database", "pg_default_acl", "pg_depend", "pg_description", "pg_enum",
    "pg_event_trigger", "pg_extension", "pg_foreign_data_wrapper", "pg_foreign_table", "pg_group", "pg_index", "pg_indexes",
    "pg_inherits", "pg_init_privs", "pg_language", "pg_largeobject_metadata", "pg_matviews", "pg_namespace", "pg_opclass", "pg_operator", "pg_opfamily",
    "pg_parameter_acl", "pg_partitioned_table", "pg_policies", "pg_policy", "pg_proc", "pg_publication",
    "pg_publication_namespace", "pg_publication_rel", "pg_publication_tables", "pg_range", "pg_rewrite", "pg_roles", "pg_rules",
    "pg_seclabel", "pg_seclabels", "pg_sequence", "pg_sequences", "pg_settings", "pg_shdepend", "pg_shdescription",
    "pg_shmem_allocations", "pg_stat_all_indexes", "pg_stat_archiver", "pg_stat_bgwriter",
    "pg_stat_checkpointer", "pg_stat_database", "pg_stat_database_conflicts", "pg_stat_io", "pg_stat_slru", "pg_stat_ssl",
    "pg_stat_sys_indexes", "pg_stat_user_functions", "pg_stat_user_indexes",
    "pg_stat_wal", "pg_statio_all_indexes", "pg_statio_all_sequences",
    "pg_statio_all_tables", "pg_statio_sys_indexes", "pg_statio_sys_sequences", "pg_statio_sys_tables",
    "pg_statio_user_indexes", "pg_statio_user_sequences", "pg_statio_user_tables", "pg_statistic_ext", "pg_tables",
    "pg_tablespace", "pg_timezone_abbrevs", "pg_timezone_names", "pg_transform", "pg_trigger", "pg_ts_config",
    "pg_ts_config_map", "pg_ts_dict", "pg_ts_parser", "pg_ts_template", "pg_type", "pg_user", "pg_views",
];

/// Columns of system relations that hold contents, where the others do not; `None`: all of them may.
pub(crate) fn secret_columns(relation: &str) -> Option<&'static [&'static str]> {
    match relation {
        "pg_stat_activity" => Some(&["query"]),
        // Whether an UPDATE left every indexed column as it was.
        "pg_stat_all_tables"
        | "pg_stat_sys_tables"
        | "pg_stat_user_tables"
        | "pg_stat_xact_all_tables"
        | "pg_stat_xact_user_tables" => Some(&["n_tup_hot_upd", "n_tup_newpage_upd"]),
        "pg_stats" => Some(&[
            "most_common_vals",
            "most_common_freqs",
            "histogram_bounds",
            "correlation",
            "most_common_elems",
            "most_common_elem_freqs",
            "elem_count_histogram",
            "range_length_histogram",
            "range_empty_frac",
            "range_bounds_histogram",
            "n_distinct",
        ]),
        "pg_authid" => Some(&["rolpassword"]),
        "pg_shadow" => Some(&["passwd", "useconfig"]),
        "pg_subscription" => Some(&["subconninfo"]),
        "pg_user_mappings" => Some(&["umoptions"]),
        "pg_foreign_server" => Some(&["srvoptions", "srvtype", "srvversion"]),
        "pg_db_role_setting" => Some(&["setconfig"]),
        "pg_prepared_statements" | "pg_cursors" => Some(&["statement", "name"]),
        "pg_locks" => Some(&["classid", "objid", "objsubid", "page", "tuple"]),
        _ => None,
    }
}

/// Views of `information_schema` that show options (passwords of foreign servers among them). The others show structure.
#[rustfmt::skip]
pub(crate) const INFORMATION_SECRETS: &[&str] = &[
    "_pg_foreign_data_wrappers", "_pg_foreign_servers", "_pg_foreign_table_columns", "_pg_foreign_tables", "_pg_user_mappings",
    "column_options", "foreign_data_wrapper_options", "foreign_server_options", "foreign_table_options", "user_mapping_options",
];

/// OIDs of the catalogue tables among [`SYSTEM_RELATIONS`] that are fixed for ever (pg_class.dat): they are what RowDescription
/// names, also where a snapshot leaves system tables out.
#[rustfmt::skip]
pub(crate) const SYSTEM_OIDS: &[u32] = &[
    826, 1213, 1214, 1247, 1249, 1255, 1259, 1261, 1262, 2224, 2328, 2396, 2600, 2601, 2602, 2603, 2604, 2605,
    2606, 2607, 2608, 2609, 2610, 2611, 2612, 2615, 2616, 2617, 2618, 2620, 2753, 2995, 3079, 3118, 3256, 3350,
    3381, 3394, 3456, 3466, 3501, 3541, 3576, 3600, 3601, 3602, 3603, 3764, 6104, 6106, 6237, 6243,
];

/// What of a system relation or function says how something is defined: it may repeat a constant that a user wrote there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// A text the constants of which can be told apart.
    Text(Text),
    /// Anything else: parse trees, stored values, options.
    Whole,
}

const SQL: Part = Part::Text(Text::Sql);
const WORDS: Part = Part::Text(Text::Words);
const WHOLE: Part = Part::Whole;

/// Columns of [`SYSTEM_RELATIONS`] and of `information_schema` that hold definitions.
pub(crate) fn definitions(relation: &str) -> &'static [(&'static str, Part)] {
    match relation {
        "pg_aggregate" => &[("agginitval", WORDS), ("aggminitval", WORDS)],
        // adsrc and consrc: before PostgreSQL 12.
        "pg_attrdef" => &[("adbin", WHOLE), ("adsrc", SQL)],
        "pg_attribute" => &[("attfdwoptions", WHOLE), ("attmissingval", WHOLE)],
        "pg_class" => &[("relpartbound", WHOLE)],
        "pg_collation" => &[("collicurules", WORDS)],
        "pg_constraint" => &[("conbin", WHOLE), ("consrc", SQL)],
        "pg_description" | "pg_shdescription" => &[("description", WORDS)],
        "pg_enum" => &[("enumlabel", WORDS)],
        "pg_extension" => &[("extcondition", WHOLE)],
        "pg_foreign_data_wrapper" => &[("fdwoptions", WHOLE)],
        "pg_foreign_table" => &[("ftoptions", WHOLE)],
        "pg_index" => &[("indexprs", WHOLE), ("indpred", WHOLE)],
        "pg_indexes" => &[("indexdef", SQL)],
        "pg_matviews" | "pg_rules" | "pg_views" => &[("definition", SQL)],
        "pg_partitioned_table" => &[("partexprs", WHOLE)],
        "pg_policies" => &[("qual", SQL), ("with_check", SQL)],
        "pg_policy" => &[("polqual", WHOLE), ("polwithcheck", WHOLE)],
        "pg_proc" => &[
            ("proargdefaults", WHOLE),
            ("probin", WORDS),
            ("proconfig", WHOLE),
            ("prosqlbody", WHOLE),
            ("prosrc", SQL),
        ],
        "pg_publication_rel" => &[("prqual", WHOLE)],
        "pg_publication_tables" => &[("rowfilter", SQL)],
        "pg_rewrite" => &[("ev_action", WHOLE), ("ev_qual", WHOLE)],
        "pg_roles" => &[("rolconfig", WHOLE)],
        "pg_seclabel" | "pg_seclabels" => &[("label", WORDS)],
        "pg_statistic_ext" => &[("stxexprs", WHOLE)],
        "pg_trigger" => &[("tgargs", WHOLE), ("tgqual", WHOLE)],
        "pg_ts_dict" => &[("dictinitoption", SQL)],
        "pg_type" => &[("typdefault", SQL), ("typdefaultbin", WHOLE)],
        "pg_user" => &[("useconfig", WHOLE)],
        // information_schema
        "attributes" => &[("attribute_default", SQL)],
        "check_constraints" => &[("check_clause", SQL)],
        "columns" => &[("column_default", SQL), ("generation_expression", SQL)],
        "domains" | "element_types" => &[("domain_default", SQL)],
        "foreign_servers" | "_pg_foreign_servers" => {
            &[("foreign_server_type", WORDS), ("foreign_server_version", WORDS)]
        }
        "parameters" => &[("parameter_default", SQL)],
        "routines" => &[("external_name", WORDS), ("routine_definition", SQL)],
        "triggers" => &[("action_condition", SQL), ("action_statement", SQL)],
        "views" => &[("view_definition", SQL)],
        _ => &[],
    }
}

/// Catalogue tables among [`SYSTEM_OIDS`] with [`definitions`], where the snapshot does not say which column is which.
#[rustfmt::skip]
pub(crate) const DEFINITION_OIDS: &[u32] = &[
    1247, 1249, 1255, 1259, 2328, 2396, 2600, 2604, 2606, 2609, 2610, 2618, 2620, 3079, 3118, 3256, 3350, 3381, 3456, 3501, 3600,
    6106,
];

/// Those of [`PURE_FUNCTIONS`] that show a definition.
pub(crate) fn defines(function: &str) -> Option<Part> {
    Some(match function {
        "pg_get_constraintdef"
        | "pg_get_expr"
        | "pg_get_function_arg_default"
        | "pg_get_function_arguments"
        | "pg_get_function_sqlbody"
        | "pg_get_functiondef"
        | "pg_get_indexdef"
        | "pg_get_partition_constraintdef"
        | "pg_get_partkeydef"
        | "pg_get_ruledef"
        | "pg_get_statisticsobjdef"
        | "pg_get_statisticsobjdef_columns"
        | "pg_get_triggerdef"
        | "pg_get_viewdef" => SQL,
        "col_description" | "enum_first" | "enum_last" | "enum_range" | "obj_description"
        | "shobj_description" => WORDS,
        "pg_get_publication_tables" => WHOLE,
        _ => return None,
    })
}

/// Types whose input and casts are built in.
#[rustfmt::skip]
pub(crate) const TYPES: &[&str] = &[
    "abstime", "aclitem", "any", "anyarray", "anyelement", "bigint", "bit", "bool", "boolean", "box", "bpchar", "bytea", "char",
    "character", "cid", "cidr", "circle", "cstring", "date", "datemultirange", "daterange", "decimal", "float", "float4",
    "float8", "inet", "int", "int2", "int2vector", "int4", "int4multirange", "int4range", "int8", "int8multirange", "int8range",
    "integer", "interval", "json", "jsonb", "jsonpath", "line", "lseg", "macaddr", "macaddr8", "money", "name", "numeric",
    "nummultirange", "numrange", "oid", "oidvector", "path", "pg_lsn", "pg_node_tree", "pg_snapshot", "point", "polygon",
    "real", "record", "refcursor", "regclass", "regcollation", "regconfig", "regdictionary", "regnamespace", "regoper",
    "regoperator", "regproc", "regprocedure", "regrole", "regtype", "smallint", "text", "tid", "time", "timestamp",
    "timestamptz", "timetz", "tsmultirange", "tsquery", "tsrange", "tstzmultirange", "tstzrange", "tsvector", "txid_snapshot",
    "unknown", "uuid", "varbit", "varchar", "void", "xid", "xid8", "xml",
];

/// Settings whose value cannot change how the text of a statement is read, nor what the server tells beyond its answer.
#[rustfmt::skip]
pub(crate) const SETTINGS: &[&str] = &[
    "application_name", "array_nulls", "backend_flush_after", "bytea_output", "check_function_bodies",
    "client_connection_check_interval", "client_min_messages", "commit_delay", "commit_siblings", "constraint_exclusion",
    "cpu_index_tuple_cost", "cpu_operator_cost", "cpu_tuple_cost", "createrole_self_grant", "cursor_tuple_fraction",
    "datestyle", "deadlock_timeout", "debug_parallel_query", "default_statistics_target", "default_table_access_method",
    "default_tablespace", "default_text_search_config", "default_toast_compression", "default_transaction_deferrable",
    "default_transaction_isolation", "default_transaction_read_only", "default_with_oids", "effective_cache_size",
    "effective_io_concurrency", "enable_async_append", "enable_bitmapscan", "enable_distinct_reordering", "enable_gathermerge",
    "enable_group_by_reordering", "enable_hashagg", "enable_hashjoin", "enable_incremental_sort", "enable_indexonlyscan",
    "enable_indexscan", "enable_material", "enable_memoize", "enable_mergejoin", "enable_nestloop", "enable_parallel_append",
    "enable_parallel_hash", "enable_partition_pruning", "enable_partitionwise_aggregate", "enable_partitionwise_join",
    "enable_presorted_aggregate", "enable_self_join_elimination", "enable_seqscan", "enable_sort", "enable_tidscan",
    "escape_string_warning", "event_triggers", "extra_float_digits", "force_parallel_mode", "from_collapse_limit", "geqo",
    "geqo_effort", "geqo_generations", "geqo_pool_size", "geqo_seed", "geqo_selection_bias", "geqo_threshold",
    "gin_fuzzy_search_limit", "gin_pending_list_limit", "hash_mem_multiplier", "icu_validation_level",
    "idle_in_transaction_session_timeout", "idle_session_timeout", "intervalstyle", "jit", "jit_above_cost",
    "jit_inline_above_cost", "jit_optimize_above_cost", "join_collapse_limit", "lc_messages", "lc_monetary", "lc_numeric",
    "lc_time", "lock_timeout", "logical_decoding_work_mem", "maintenance_io_concurrency", "maintenance_work_mem",
    "max_parallel_maintenance_workers", "max_parallel_workers", "max_parallel_workers_per_gather", "max_stack_depth",
    "min_parallel_index_scan_size", "min_parallel_table_scan_size", "parallel_leader_participation", "parallel_setup_cost",
    "parallel_tuple_cost", "password_encryption", "plan_cache_mode", "quote_all_identifiers", "random_page_cost",
    "recursive_worktable_factor", "restrict_nonsystem_relation_kind", "role", "row_security", "scram_iterations", "search_path", "seed", "seq_page_cost",
    "session_authorization", "statement_timeout", "stats_fetch_consistency", "synchronize_seqscans", "synchronous_commit",
    "tcp_keepalives_count", "tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_user_timeout", "temp_buffers",
    "temp_tablespaces", "timezone", "timezone_abbreviations", "track_activities", "track_counts", "track_functions",
    "track_io_timing", "transaction", "transaction_deferrable", "transaction_isolation", "transaction_read_only",
    "transaction_timeout", "transform_null_equals", "vacuum_buffer_usage_limit", "vacuum_cost_delay", "vacuum_cost_limit",
    "wal_compression", "wal_skip_threshold", "work_mem", "xmlbinary", "xmloption",
];

/// Settings that change how the bytes of later statements are read. Only the value we read them with is let through.
pub(crate) const LEXICAL_SETTINGS: &[(&str, &[&str])] = &[
    ("backslash_quote", &["safe_encoding", "off"]),
    ("client_encoding", &["utf8", "utf-8", "unicode"]),
    ("standard_conforming_strings", &["on", "true", "yes", "1", "tru", "tr", "t", "ye", "y"]),
];

/// Settings among [`SETTINGS`] that say who runs a statement or what its names mean: their value has to be written out.
const MEANING_SETTINGS: &[&str] = &["role", "search_path", "session_authorization"];

/// True for settings that no value can turn into a change of names, quoting or identity.
pub(crate) fn harmless_whatever_value(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    match name.split_once('.') {
        // An application's own, which only its own SQL reads.
        Some((owner, _)) => !SETTING_OWNERS.contains(&owner),
        None => listed(SETTINGS, &name) && !MEANING_SETTINGS.contains(&name.as_str()),
    }
}

/// Prefixes of custom settings that belong to extensions which act on them.
#[rustfmt::skip]
pub(crate) const SETTING_OWNERS: &[&str] = &[
    "auto_explain", "pg_hint_plan", "pg_stat_statements", "pg_stat_plans", "pgaudit", "plperl", "plpgsql", "plpython", "plpython3", "pltcl",
    "plv8", "sepgsql", "session_exec", "supautils", "timescaledb",
];

/// Columns every table has, and no view: there such a name is one of an outer query. `oid` is a column like others since
/// PostgreSQL 12.
const SYSTEM_COLUMNS: &[&str] = &["cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"];

pub(crate) fn system_column(table: &Table, name: &str) -> bool {
    !matches!(table.kind, 'v' | 'c') && SYSTEM_COLUMNS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_and_disjoint() {
        for list in [
            PURE_FUNCTIONS,
            ROW_FUNCTIONS,
            ELEMENT_FUNCTIONS,
            VOLATILE_FUNCTIONS,
            TOTAL_FUNCTIONS,
            REMEMBERED_FUNCTIONS,
            SCALAR_FUNCTIONS,
            EFFECT_FUNCTIONS,
            TEXT_RUNNERS,
            SYSTEM_RELATIONS,
            INFORMATION_SECRETS,
            TYPES,
            SETTINGS,
            SYSTEM_COLUMNS,
        ] {
            for pair in list.windows(2) {
                assert!(pair[0] < pair[1], "{} before {}", pair[0], pair[1]);
            }
        }
        assert!(DEFINITION_OIDS.windows(2).all(|pair| pair[0] < pair[1]));
        for oid in DEFINITION_OIDS {
            assert!(SYSTEM_OIDS.contains(oid), "{oid}");
        }
        for function in PURE_FUNCTIONS.iter().filter(|f| f.starts_with("pg_get_") && f.contains("def")) {
            assert!(defines(function).is_some(), "{function} shows a definition");
        }
        assert!(SYSTEM_OIDS.windows(2).all(|pair| pair[0] < pair[1]));
        for secret in [1260, 1418, 2613, 2619, 3429, 6100] {
            assert!(
                !SYSTEM_OIDS.contains(&secret),
                "pg_authid, user mappings, large objects, statistics, subscriptions"
            );
        }
        for name in ELEMENT_FUNCTIONS {
            assert!(listed(ROW_FUNCTIONS, name), "{name}");
        }
        for name in [ROW_FUNCTIONS, TOTAL_FUNCTIONS, REMEMBERED_FUNCTIONS, SCALAR_FUNCTIONS].concat() {
            assert!(listed(PURE_FUNCTIONS, name), "{name}");
        }
        for name in EFFECT_FUNCTIONS.iter().chain(TEXT_RUNNERS) {
            assert!(!listed(PURE_FUNCTIONS, name) && acts(name), "{name} is not pure");
        }
        for name in [
            "pg_statistic",
            "pg_stats",
            "pg_authid",
            "pg_shadow",
            "pg_largeobject",
            "pg_stat_activity",
            "pg_locks",
        ] {
            assert!(!listed(SYSTEM_RELATIONS, name), "{name} holds contents");
        }
    }
}
