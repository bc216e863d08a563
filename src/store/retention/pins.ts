/**
 * What people and roots want kept for good: one small file per pin, named by the digest, so that pins
 * survive everything that the blobs themselves survive.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { z } from 'zod'
import { MeshError, messageOf } from '../../base/errors.ts'
import { isDigest, type Digest } from '../../wire/digest.ts'
import { replaceFile, syncDirectory } from '../disk.ts'
import { KeptEntry } from './kept.ts'

const PINS_MAX = 10_000
const LABEL_LENGTH_MAX = 200
const SUFFIX = '.json'

export const Pin = KeptEntry.extend({
  /** For people. */
  label: z.string().max(LABEL_LENGTH_MAX),
  /** ISO time: display only. */
  atWall: z.string().max(40),
})
export type Pin = z.infer<typeof Pin>

export class Pins {
  readonly #directory: string
  readonly #pins = new Map<Digest, Pin>()
  readonly #onAdded: (entry: KeptEntry) => void

  /** Reads what is there; a few milliseconds per thousand pins. */
  constructor(
    deps: { readonly log: Logger; readonly onAdded: (entry: KeptEntry) => void },
    options: { readonly directory: string },
  ) {
    this.#directory = options.directory
    this.#onAdded = deps.onAdded
    mkdirSync(this.#directory, { recursive: true })
    for (const name of readdirSync(this.#directory)) {
      const digest = name.slice(0, -SUFFIX.length)
      if (name.endsWith(SUFFIX) && isDigest(digest))
        this.#pins.set(digest, readPin(join(this.#directory, name), digest, deps.log))
      else if (name.endsWith('.new')) rmSync(join(this.#directory, name)) // of a crash while pinning
    }
  }

  get count(): number {
    return this.#pins.size
  }

  find(digest: Digest): Pin | undefined {
    return this.#pins.get(digest)
  }

  list(): readonly Pin[] {
    return [...this.#pins.values()]
  }

  /**
   * Replaces an earlier pin of the same digest; on the disk when it returns. The blobs need not be here
   * yet. Throws MESH0211 at 10,000 pins.
   */
  add(pin: Pin): void {
    const parsed = Pin.parse(pin)
    if (this.#pins.size >= PINS_MAX && !this.#pins.has(parsed.digest))
      throw new MeshError('MESH0211', `there are ${PINS_MAX} pins, which is the limit`, {
        where: this.#directory,
        hints: ['remove pins that are not needed any more'],
      })
    replaceFile(this.#path(parsed.digest), `${JSON.stringify(parsed)}\n`)
    this.#pins.set(parsed.digest, parsed)
    this.#onAdded(parsed)
  }

  /** False when there was none. */
  remove(digest: Digest): boolean {
    if (!this.#pins.has(digest)) return false
    rmSync(this.#path(digest), { force: true })
    syncDirectory(this.#directory)
    return this.#pins.delete(digest)
  }

  #path(digest: Digest): string {
    return join(this.#directory, `${digest}${SUFFIX}`)
  }
}

/** A damaged file still pins what it is named after, as if that were a directory. */
function readPin(path: string, digest: Digest, log: Logger): Pin {
  try {
    const pin = Pin.parse(JSON.parse(readFileSync(path, 'utf8')))
    if (pin.digest === digest) return pin
    log.warn({ path, digest: pin.digest }, 'pin is of another digest than its name says')
  } catch (error) {
    log.warn({ path, reason: messageOf(error) }, 'pin cannot be read')
  }
  return { digest, size: 0, kind: 'dir', label: '', atWall: '' }
}
