/**
 * Requests that this node accepted for another owner: journaled here before they are acknowledged, and
 * forwarded until the owner has journaled them too.
 */
import type { Level } from 'level'
import { openLevel } from '../store/blob-index.ts'
import { LevelHealer } from '../store/level-healer.ts'
import { decodeObject, encodeObject } from '../wire/cbor.ts'
import { RequestWire } from '../wire/facts.ts'

/** Requests that wait to be forwarded; over it a submit answers "try later". */
export const OUTBOX_MAX = 1_000

export interface Outbox extends AsyncDisposable {
  /** Resolves when it is on disk. */
  put(request: RequestWire): Promise<void>
  /** The owner has it. */
  remove(id: string): Promise<void>
  readonly waiting: ReadonlyMap<string, RequestWire>
}

export async function openOutbox(options: { readonly directory: string }): Promise<Outbox> {
  const db: Level<Uint8Array, Uint8Array> = await openLevel(options.directory)
  const healer = new LevelHealer(db)
  let last: Promise<unknown> = Promise.resolve()
  /** One write at a time. */
  const write = (change: () => Promise<void>): Promise<void> => {
    const done = last.then(() => healer.write(change))
    last = done.catch(() => undefined)
    return done
  }
  const waiting = new Map<string, RequestWire>()
  for await (const [key, value] of db.iterator())
    waiting.set(Buffer.from(key).toString(), decodeObject(RequestWire, value, 'forwarded request'))
  return {
    waiting,
    async put(request) {
      const value = encodeObject(RequestWire, request)
      await write(() => db.put(Buffer.from(request.id), value, { sync: true }))
      waiting.set(request.id, request)
    },
    async remove(id) {
      waiting.delete(id)
      await write(() => db.del(Buffer.from(id)))
    },
    async [Symbol.asyncDispose]() {
      await last
      await db.close()
    },
  }
}
