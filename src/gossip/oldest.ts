/** The keys that a full map gives up. */

/**
 * A few at a time: after deletions at its front, a map takes longer to find its first key the bigger it is,
 * so dropping one for each that is added is quadratic.
 */
const SHARE = 64

/** The oldest part of the keys, at least one; nothing while there is room for one more. */
export function oldestOf<K>(map: ReadonlyMap<K, unknown>, sizeMax: number): K[] {
  const oldest: K[] = []
  if (map.size < sizeMax) return oldest
  for (const key of map.keys()) {
    oldest.push(key)
    if (oldest.length >= sizeMax / SHARE) break
  }
  return oldest
}
