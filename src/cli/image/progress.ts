/** Says how far it is while many files are read: one line that changes on a terminal, else one now and then. */
import { formatSize } from '../../base/units.ts'
import type { Context } from '../context.ts'

const TERMINAL_MS = 200
const PLAIN_MS = 10_000

export class FileProgress {
  readonly #context: Pick<Context, 'clock' | 'stderr'>
  readonly #verb: string
  #saidAtMs: number
  #fileCount = 0
  #sizeBytes = 0
  #isShown = false

  /** `verb`: "read". */
  constructor(context: Pick<Context, 'clock' | 'stderr'>, verb: string) {
    this.#context = context
    this.#verb = verb
    this.#saidAtMs = context.clock.nowMs()
  }

  async add(sizeBytes: number): Promise<void> {
    this.#fileCount += 1
    this.#sizeBytes += sizeBytes
    const { clock, stderr } = this.#context
    const nowMs = clock.nowMs()
    if (nowMs - this.#saidAtMs < (stderr.isTty ? TERMINAL_MS : PLAIN_MS)) return
    this.#saidAtMs = nowMs
    const text = `${this.#verb} ${this.#fileCount} files, ${formatSize(this.#sizeBytes)}`
    this.#isShown = stderr.isTty
    await stderr.write(stderr.isTty ? `\r\u001B[K${text}` : `${text}\n`)
  }

  /** Takes the line away. */
  async end(): Promise<void> {
    if (this.#isShown) await this.#context.stderr.write('\r\u001B[K')
    this.#isShown = false
  }
}
