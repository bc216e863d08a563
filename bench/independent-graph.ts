/** Graphs of many small derivations that do not depend on each other. */

/** A graph of `count` derivations that nothing has built before. */
export function independentGraph(count: number, command: string, salt: string): string {
  const derivation = Object.fromEntries(
    Array.from({ length: count }, (_, index) => [
      `job-${index}`,
      { builder: '/bin/sh', args: ['-euc', command], env: { SALT: `${salt}-${index}` } },
    ]),
  )
  return JSON.stringify({ mesh: 1, derivation })
}
