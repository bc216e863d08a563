/** Patterns with `*` (any text) and `?` (one character), as people write them for names. */

/** Whether the whole of `text` has the form of `pattern`. O(pattern × text), whatever the pattern. */
export function matchesGlob(pattern: string, text: string): boolean {
  let at = 0
  let from = 0
  // Where the last star was, and how much of the text it has taken so far.
  let star = -1
  let taken = 0
  while (at < text.length) {
    const wanted = pattern[from]
    if (wanted === '*') {
      star = from
      taken = at
      from += 1
    } else if (wanted === '?' || (wanted !== undefined && wanted === text[at])) {
      from += 1
      at += 1
    } else if (star === -1) return false
    else {
      taken += 1
      at = taken
      from = star + 1
    }
  }
  while (pattern[from] === '*') from += 1
  return from === pattern.length
}
