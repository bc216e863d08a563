/**
 * Gets a Level over a full disk. After one write that failed LevelDB refuses all others, also when there is
 * room again, and what it appends behind half a record is lost at the next start: so nothing is written
 * until the database was opened anew, and that waits for room.
 */
import type { Level } from 'level'
import { MeshError, messageOf } from '../base/errors.ts'
import { diskSpace } from './disk.ts'

/** What opening and the first compaction need at most. */
const ROOM_BYTES = 8 * 1024 * 1024

export class LevelHealer {
  readonly #db: Level<Uint8Array, Uint8Array>
  #failure: unknown

  constructor(db: Level<Uint8Array, Uint8Array>) {
    this.#db = db
  }

  /** One at a time. Throws MESH0503 for a write that found no room. */
  async write(write: () => Promise<void>): Promise<void> {
    if (this.#failure !== undefined) await this.#reopen(this.#failure)
    try {
      await write()
    } catch (error) {
      this.#failure = error
      throw (await this.#hasRoom()) ? error : this.#full(error)
    }
  }

  /** Before a read: MESH0503 for the moment in which the database is opened anew. */
  check(): void {
    if (this.#db.status !== 'open') throw this.#full(this.#failure)
  }

  async #reopen(failure: unknown): Promise<void> {
    if (!(await this.#hasRoom())) throw this.#full(failure)
    await this.#db.close()
    await this.#db.open()
    this.#failure = undefined
  }

  async #hasRoom(): Promise<boolean> {
    return (await diskSpace(this.#db.location)).freeBytes >= ROOM_BYTES
  }

  #full(cause: unknown): MeshError {
    const { location } = this.#db
    return new MeshError('MESH0503', `no room for the index in ${location}: ${messageOf(cause)}`, {
      where: location,
      cause,
      hints: ['free disk space, or move the data directory with --data'],
    })
  }
}
