/** Bodies that are stored once for all copies of a publish: a copy has either its own, or the `log_id` of the shared one. */

/** The body of a row of `messages` or `scheduled`, under the alias `row`. Primary key of `topic_log`. */
export const bodyOf = (row: string): string =>
  `case when ${row}.log_id is null then ${row}.body else (select z.body from postern.topic_log z where z.id = ${row}.log_id) end`

/** Its length, without reading it. */
export const bytesOf = (row: string): string =>
  `case when ${row}.log_id is null then octet_length(${row}.body) else (select octet_length(z.body) from postern.topic_log z where z.id = ${row}.log_id) end`
