/** The version of this program, which is that of package.json. */
export const version = '0.1.0'
