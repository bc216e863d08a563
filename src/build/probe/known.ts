/** What is known of a machine, with where each piece of knowledge comes from. */

type Source = 'probed' | 'declared' | 'default'

/** One thing that is known of a machine. */
export interface Known<T> {
  readonly value: T
  readonly source: Source
  /** One line: where it comes from, such as a file of the kernel, or why it is so. */
  readonly how: string
}

/** Whether something works here, which was tried. */
export interface Ability {
  readonly ok: boolean
  /** What showed it; of what does not work the exact error. */
  readonly why: string
}

export const probed = <T>(value: T, how: string): Known<T> => ({ value, source: 'probed', how })

/** Text that others wrote, made fit for one line of a terminal. */
export function oneLine(text: string, charsMax: number): string {
  return text
    .trim()
    .replaceAll(/\s*\n\s*/g, '; ')
    .replaceAll(/\p{Cc}/gu, ' ')
    .trim()
    .slice(0, charsMax)
}
