/** What a filter is; how it is checked and what it matches. */
export type Filter = { [field: string]: unknown }
