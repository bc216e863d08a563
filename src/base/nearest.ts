/** "Did you mean": the known words that are nearest to a mistyped one. */

/** At most `count` of `known`, nearest first; only those that a slip of the fingers explains. */
export function nearest(word: string, known: Iterable<string>, count = 1): string[] {
  const limit = Math.max(1, Math.floor(word.length / 3))
  return [...known]
    .map((candidate) => ({ candidate, distance: editDistance(word, candidate) }))
    .filter(({ distance, candidate }) => distance <= limit || candidate.startsWith(word))
    .toSorted((a, b) => a.distance - b.distance)
    .slice(0, count)
    .map(({ candidate }) => candidate)
}

/** Like `nearest`, but always `count` words: for short lists such as the flags of one command. */
export function nearestOf(word: string, known: readonly string[], count: number): string[] {
  return known.toSorted((a, b) => editDistance(word, a) - editDistance(word, b)).slice(0, count)
}

/** Insertions, deletions, replacements and swaps of neighbours (optimal string alignment). */
function editDistance(a: string, b: string): number {
  let before: number[] = []
  let above = Array.from({ length: b.length + 1 }, (_, at) => at)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1
      let best = Math.min((above[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, (above[j - 1] ?? 0) + cost)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        best = Math.min(best, (before[j - 2] ?? 0) + 1)
      row.push(best)
    }
    before = above
    above = row
  }
  return above[b.length] ?? 0
}
