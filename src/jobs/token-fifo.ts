/**
 * The FIFO that the jobs of one build take their tokens from: one byte is one token (the POSIX jobserver of
 * GNU make, https://www.gnu.org/software/make/manual/html_node/POSIX-Jobserver.html).
 *
 * Kept open for reading and writing all the time: a client that found it without a writer would see its end.
 */
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs'
import { hasCode } from '../base/errors.ts'

/** What a pipe of Linux holds, and so the most tokens of one build. */
export const TOKENS_MAX = 65_536
/** make and ninja write back what they have read; any byte will do for a new one. */
const TOKEN = '+'.charCodeAt(0)

export class TokenFifo {
  readonly path: string
  /** Reading from it waits: for the thread that takes tokens, and nobody else. */
  readonly waitingFd: number
  readonly #fd: number
  readonly #bytes = Buffer.alloc(TOKENS_MAX)

  constructor(path: string) {
    this.path = path
    this.#fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK)
    this.waitingFd = openSync(path, constants.O_RDWR)
  }

  put(count: number): void {
    if (count > 0) writeSync(this.#fd, this.#bytes.fill(TOKEN, 0, count), 0, count)
  }

  /** Takes up to `count` free tokens; how many there were. Never waits. */
  take(count: number): number {
    if (count <= 0) return 0
    try {
      return readSync(this.#fd, this.#bytes, 0, Math.min(count, TOKENS_MAX), null)
    } catch (error) {
      if (hasCode(error, 'EAGAIN')) return 0
      throw error
    }
  }

  /** Counts the free tokens, and drops those over `limit`: clients gave back more than they had. */
  count(limit: number): number {
    const free = Math.min(this.take(TOKENS_MAX), limit)
    this.put(free)
    return free
  }

  /** Nobody waits in `waitingFd` any more. */
  close(): void {
    closeSync(this.#fd)
    closeSync(this.waitingFd)
  }
}
