/** What an image does not take of what was found, counted, so that people are told. */
import { plural } from '../../base/units.ts'

type Reason = 'socket' | 'pipe' | 'device' | 'special' | 'unreadable' | 'system'

const EXAMPLES_MAX = 3
const WORDS: Readonly<Record<Exclude<Reason, 'system'>, string>> = {
  socket: 'socket',
  pipe: 'pipe',
  device: 'device',
  special: 'special file',
  unreadable: 'unreadable file',
}

/** These hold what a kernel or a running system puts there. */
const SYSTEM_FOLDERS = ['dev', 'proc', 'run', 'sys']

/** Whether a path under the root lies in a folder that an image has empty. */
export function isOfSystem(relative: string): boolean {
  const slash = relative.indexOf('/')
  return slash !== -1 && SYSTEM_FOLDERS.includes(relative.slice(0, slash))
}

export class LeftOut {
  readonly #counts = new Map<Reason, number>()
  readonly #unreadable: string[] = []

  add(reason: Reason, path: string): void {
    this.#counts.set(reason, (this.#counts.get(reason) ?? 0) + 1)
    if (reason === 'unreadable' && this.#unreadable.length < EXAMPLES_MAX)
      this.#unreadable.push(path)
  }

  get counts(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#counts)
  }

  /** One line; undefined where nothing was left out. */
  get line(): string | undefined {
    const parts = [...this.#counts].map(([reason, count]) =>
      reason === 'system'
        ? `${count} ${count === 1 ? 'entry' : 'entries'} below /dev, /proc, /run and /sys`
        : plural(count, WORDS[reason]),
    )
    if (parts.length === 0) return undefined
    const examples = this.#unreadable.length === 0 ? '' : ` (${this.#unreadable.join(', ')} ...)`
    return `left out: ${parts.join(', ')}${examples}`
  }
}
