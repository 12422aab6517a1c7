/** Objects whose property names come from outside. */

/** Sets a property whatever its name is: `__proto__` too is then one like any other. (An object without a prototype would cost more.) */
export function setOwn<T>(object: Record<string, T>, name: string, value: T): void {
  if (name === '__proto__')
    Object.defineProperty(object, name, { value, enumerable: true, configurable: true, writable: true })
  else object[name] = value
}
