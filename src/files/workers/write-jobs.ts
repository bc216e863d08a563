/**
 * Jobs that make files which become blobs: out of a stream of pieces, out of a file that is there, and out
 * of all that a build left. Each file they name is finished (mode, time, owner) and hashed; giving it its
 * final name is up to whoever started the job.
 */
import {
  closeSync,
  fchmodSync,
  fchownSync,
  fstatSync,
  futimesSync,
  mkdirSync,
  openSync,
  rmSync,
  statSync,
  writeSync,
  type BigIntStats,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { hasCode, isDiskFull } from '../../base/errors.ts'
import { Hasher, type BlobRef } from '../../wire/digest.ts'
import type { Entry } from '../../wire/tree.ts'
import { writeAllAt } from '../file-io.ts'
import { identityOf, mustBeSame, openFile, regularFile, type FileIdentity } from '../ingest.ts'
import { unreadable } from '../refusal.ts'
import { walk } from '../walk.ts'
import { hashPieces } from './read-jobs.ts'

/** Files, or listings, that are told in one message. */
const TAKEN_PER_PART = 256
/** Other jobs get their turn after this many small files. */
const FILES_PER_TURN = 32

/** What every file of a store has. */
export interface Finish {
  readonly mode: number
  /** One time for all: a build must not see when its inputs came. */
  readonly timeSeconds: number
}

/** Bytes of a stream, at the beginning of a buffer that is given away. */
export interface WritePiece {
  readonly buffer: ArrayBuffer
  readonly length: number
  readonly isLast: boolean
}
/** A buffer that comes back to be filled again. */
export interface WrittenPiece {
  readonly buffer?: ArrayBuffer
}

/** Writes a new file out of the pieces that it is sent, and hashes it. Its first part asks for the first. */
export function* writeFileJob(
  input: Finish & { readonly path: string },
): Generator<WrittenPiece | Promise<void>, BlobRef, WritePiece | undefined> {
  const file = openSync(input.path, 'wx', input.mode)
  try {
    const hasher = new Hasher()
    let size = 0
    let written: WrittenPiece = {}
    for (;;) {
      const piece = yield written
      if (piece === undefined) throw new Error('a piece of a file was not sent')
      const bytes = new Uint8Array(piece.buffer, 0, piece.length)
      // Hashed while it is written.
      const writing = writeAllAt(file, [bytes], size)
      hasher.update(bytes)
      yield writing
      size += bytes.byteLength
      if (piece.isLast) break
      written = { buffer: piece.buffer }
    }
    finish(file, input)
    return { digest: hasher.digest(), size }
  } finally {
    closeSync(file)
  }
}

export interface TakeOptions extends Finish {
  /**
   * Where nothing is yet: becomes the copy of a file that cannot stay itself, or the directory of such copies
   * and of listings. Whoever started the job removes what is left of it.
   */
  readonly temporary: string
  /** Whether the file itself may become the blob. */
  readonly move: boolean
}

/** A finished file; renaming it makes it a blob, if it still is what it was. */
export interface TakenFile {
  readonly ref: BlobRef
  readonly path: string
  readonly identity: FileIdentity
}

/** One regular file. Throws MESH0205, MESH0207. */
export function* takeFileJob(
  input: TakeOptions & { readonly path: string },
): Generator<undefined, TakenFile> {
  return yield* new Taker(input, () => input.temporary).take(input.path)
}

/** A file, a link or a directory with all that is in it. Each part is taken before what refers to it. */
export function* takeTreeJob(
  input: TakeOptions & { readonly path: string },
): Generator<readonly TakenFile[] | undefined, Entry> {
  let madeCount = 0
  const taker = new Taker(input, () => {
    if (madeCount === 0) mkdirSync(input.temporary)
    return join(input.temporary, String(++madeCount))
  })
  let taken: TakenFile[] = []
  const walking = walk(input.path)
  let step = walking.next()
  while (step.done !== true) {
    const refs: BlobRef[] = []
    if (step.value === undefined) yield undefined
    else if (step.value.kind === 'tree') taken.push(taker.write(step.value.ref, step.value.bytes))
    else
      for (const path of step.value.paths) {
        const file = yield* taker.take(path)
        refs.push(file.ref)
        taken.push(file)
        if (taken.length % FILES_PER_TURN === 0) yield undefined
        if (taken.length >= TAKEN_PER_PART) {
          yield taken
          taken = []
        }
      }
    if (taken.length >= TAKEN_PER_PART) {
      yield taken
      taken = []
    }
    step = walking.next(refs)
  }
  if (taken.length > 0) yield taken
  return step.value
}

/** Makes finished files, in place where that is possible. */
class Taker {
  readonly #options: TakeOptions
  readonly #newPath: () => string
  readonly #device: bigint

  constructor(options: TakeOptions, newPath: () => string) {
    this.#options = options
    this.#newPath = newPath
    this.#device = statSync(dirname(options.temporary), { bigint: true }).dev
  }

  *take(path: string): Generator<undefined, TakenFile> {
    const file = openFile(path)
    let copy: { readonly path: string; readonly file: number } | undefined
    try {
      const { stat, size, identity } = regularFile(path, file)
      if (!this.#canStay(stat)) copy = this.#create()
      const digest = yield* hashPieces(file, size, writerTo(copy))
      mustBeSame(path, file, identity)
      if (copy === undefined && !becomeOurs(file, stat)) {
        copy = this.#create()
        yield* hashPieces(file, size, writerTo(copy))
      }
      return { ref: { digest, size }, ...this.#finish(copy ?? { path, file }) }
    } catch (error) {
      if (copy !== undefined) rmSync(copy.path, { force: true })
      throw isDiskFull(error) ? error : unreadable(path, error)
    } finally {
      closeSync(file)
      if (copy !== undefined) closeSync(copy.file)
    }
  }

  write(ref: BlobRef, bytes: Uint8Array): TakenFile {
    const made = this.#create()
    try {
      writeAll(made.file, bytes)
      return { ref, ...this.#finish(made) }
    } finally {
      closeSync(made.file)
    }
  }

  /** Not what has another name through which it could be changed later, nor what lies elsewhere. */
  #canStay({ nlink, dev }: BigIntStats): boolean {
    return this.#options.move && nlink === 1n && dev === this.#device
  }

  #create(): { readonly path: string; readonly file: number } {
    const path = this.#newPath()
    return { path, file: openSync(path, 'wx', this.#options.mode) }
  }

  #finish({ path, file }: { readonly path: string; readonly file: number }): {
    readonly path: string
    readonly identity: FileIdentity
  } {
    finish(file, this.#options)
    return { path, identity: identityOf(fstatSync(file, { bigint: true })) }
  }
}

const writerTo =
  (copy: { readonly file: number } | undefined) =>
  (bytes: Uint8Array): void => {
    if (copy !== undefined) writeAll(copy.file, bytes)
  }

/** False when we may not. */
function becomeOurs(file: number, stat: BigIntStats): boolean {
  const uid = process.geteuid?.()
  if (uid === undefined || stat.uid === BigInt(uid)) return true
  try {
    fchownSync(file, uid, process.getegid?.() ?? -1)
    return true
  } catch (error) {
    if (hasCode(error, 'EPERM', 'EACCES')) return false
    throw error
  }
}

function finish(file: number, { mode, timeSeconds }: Finish): void {
  fchmodSync(file, mode) // whatever the umask made of it
  futimesSync(file, timeSeconds, timeSeconds)
}

function writeAll(file: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.byteLength;) at += writeSync(file, bytes, at)
}
