/** "Did you mean": known words in the order of their distance to a mistyped one. */

/** The `count` words of `known` that are nearest to `word`. */
export function nearestOf(word: string, known: readonly string[], count: number): string[] {
  return known.toSorted((a, b) => editDistance(word, a) - editDistance(word, b)).slice(0, count)
}

/** The known word that a slip of the fingers turned into `word`, if there is one. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const [best] = nearestOf(word, known, 1)
  if (best === undefined) return undefined
  const isNear = editDistance(word, best) <= Math.ceil(word.length / 3)
  return isNear || best.startsWith(word) || word.startsWith(best) ? best : undefined
}

/** Insertions, deletions and replacements (Levenshtein). */
function editDistance(a: string, b: string): number {
  let above = Array.from({ length: b.length + 1 }, (_, at) => at)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++)
      row.push(
        Math.min(
          (above[j] ?? 0) + 1,
          (row[j - 1] ?? 0) + 1,
          (above[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1),
        ),
      )
    above = row
  }
  return above[b.length] ?? 0
}
