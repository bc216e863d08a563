/**
 * The journal of an owner in Level: facts in order, synced before anything that depends on them leaves.
 *
 * Keys are generation and sequence number. Compaction writes what is still needed as the next generation
 * and then deletes the old one; a reader seeks straight to its generation, so it never walks over deleted
 * keys.
 */
import type { Level } from 'level'
import { MeshError } from '../../base/errors.ts'
import { openLevel } from '../../store/blob-index.ts'
import { LevelHealer } from '../../store/level-healer.ts'
import { decodeObject, encodeObject } from '../../wire/cbor.ts'
import { Fact } from '../../wire/facts.ts'

const JOURNAL_FORMAT = 1
const META = Buffer.from('meta')
const READ_AT_ONCE = 1000
/** Facts of one batch while compacting. */
const WRITE_AT_ONCE = 1000

export interface Journal extends AsyncDisposable {
  /** All facts, oldest first. */
  replay(): AsyncIterable<Fact>
  /** Resolves when the facts are on disk. Callers wait for one append before the next. */
  append(facts: readonly Fact[]): Promise<void>
  /** Keeps only the facts that `isNeeded` says, and puts `more` after them. */
  compact(isNeeded: (fact: Fact) => boolean, more?: Iterable<Fact>): Promise<void>
  /** Facts since the last compaction, kept ones included. */
  readonly length: number
}

/** Throws MESH0105 when another process has it open, MESH0106 when a newer version wrote it. */
export async function openJournal(options: { readonly directory: string }): Promise<Journal> {
  const db = await openLevel(options.directory)
  const meta = await db.get(META)
  let generation = 1
  if (meta === undefined) {
    await db.put(META, encodeMeta(generation), { sync: true })
  } else {
    const text = Buffer.from(meta).toString()
    const [format = 0, stored = 1] = text.split(' ').map(Number)
    if (format > JOURNAL_FORMAT) {
      await db.close()
      throw new MeshError(
        'MESH0106',
        `the journal has format ${format}, this version knows up to ${JOURNAL_FORMAT}`,
        { where: options.directory },
      )
    }
    generation = stored
  }
  // What a crash left of an unfinished compaction, or of a finished one whose old half was not deleted.
  await db.clear({ gte: keyOf(0, 0), lt: keyOf(generation, 0) })
  await db.clear({ gte: keyOf(generation + 1, 0), lt: Buffer.from('h') })
  return new LevelJournal(db, generation)
}

function encodeMeta(generation: number): Uint8Array {
  return Buffer.from(`${JOURNAL_FORMAT} ${generation}`)
}

function keyOf(generation: number, sequence: number): Uint8Array {
  const key = Buffer.alloc(13)
  key.write('g', 0)
  key.writeUInt32BE(generation, 1)
  key.writeBigUInt64BE(BigInt(sequence), 5)
  return key
}

class LevelJournal implements Journal {
  readonly #db: Level<Uint8Array, Uint8Array>
  readonly #healer: LevelHealer
  #generation: number
  #next = 1
  length = 0

  constructor(db: Level<Uint8Array, Uint8Array>, generation: number) {
    this.#db = db
    this.#healer = new LevelHealer(db)
    this.#generation = generation
  }

  async *replay(): AsyncIterable<Fact> {
    const iterator = this.#db.iterator({
      gte: keyOf(this.#generation, 0),
      lt: keyOf(this.#generation + 1, 0),
    })
    try {
      for (;;) {
        const pairs = await iterator.nextv(READ_AT_ONCE)
        if (pairs.length === 0) return
        for (const [key, value] of pairs) {
          this.#next = Number(Buffer.from(key).readBigUInt64BE(5)) + 1
          this.length += 1
          yield decodeObject(Fact, value, 'journaled fact')
        }
      }
    } finally {
      await iterator.close()
    }
  }

  async append(facts: readonly Fact[]): Promise<void> {
    if (facts.length === 0) return
    const first = this.#next
    this.#next += facts.length
    this.length += facts.length
    const batch = facts.map((fact, at) => ({
      type: 'put' as const,
      key: keyOf(this.#generation, first + at),
      value: encodeObject(Fact, fact),
    }))
    await this.#healer.write(() => this.#db.batch(batch, { sync: true }))
  }

  async compact(isNeeded: (fact: Fact) => boolean, more: Iterable<Fact> = []): Promise<void> {
    const next = this.#generation + 1
    const range = { gte: keyOf(this.#generation, 0), lt: keyOf(next, 0) }
    let kept = 0
    let batch: { type: 'put'; key: Uint8Array; value: Uint8Array }[] = []
    const put = async (value: Uint8Array): Promise<void> => {
      kept += 1
      batch.push({ type: 'put', key: keyOf(next, kept), value })
      if (batch.length < WRITE_AT_ONCE) return
      await this.#db.batch(batch)
      batch = []
    }
    for await (const [, value] of this.#db.iterator(range))
      if (isNeeded(decodeObject(Fact, value, 'journaled fact'))) await put(value)
    for (const fact of more) await put(encodeObject(Fact, fact))
    await this.#db.batch(batch, { sync: true })
    await this.#db.put(META, encodeMeta(next), { sync: true })
    this.#generation = next
    this.#next = kept + 1
    this.length = kept
    await this.#db.clear(range)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#db.close()
  }
}
