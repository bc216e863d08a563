/**
 * Images that the configuration of this node declares: taken into its store in the background after each
 * start, held there while it runs, told of in its environments, and named in the mesh where that is wished.
 */
import type { Logger } from 'pino'
import { sleep, type Clock } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import { describeImage, type Described } from '../../files/image/describe.ts'
import { LeftOut } from '../../files/image/left-out.ts'
import { readDirectory } from '../../files/image/read-directory.ts'
import type { ReadBlob } from '../../files/lay-out.ts'
import type { FsBlobStore } from '../../store/fs-blob-store.ts'
import type { NodeRef } from '../../wire/facts.ts'
import { Problem } from '../../wire/api.ts'
import type { Digest } from '../../wire/digest.ts'
import type { ImageOrder } from '../../wire/images.ts'
import type { ApiAnswer } from '../../wire/work-messages.ts'
import type { DeclaredImage } from '../config/image-settings.ts'

/** A directory that cannot be read, since it is being made or is away, is tried again; so is a root that is away. */
const AGAIN_MS = 60_000
const OWNER_AGAIN_MS = 5_000

export interface DeclaredImagesDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly store: Pick<FsBlobStore, 'putFile' | 'put' | 'open' | 'leases'>
  readonly self: () => NodeRef
  /** Asks the owner, as a user of this node. Never throws. */
  readonly ask: (path: string, body: string) => Promise<ApiAnswer>
  /** What is ready has changed. */
  readonly onChange: () => void
}

/** One that is in the store and stays there. */
export interface ReadyImage {
  readonly name: string
  readonly system: string
  readonly digest: Digest
}

export class DeclaredImages implements AsyncDisposable {
  readonly #deps: DeclaredImagesDeps
  readonly #declared: readonly DeclaredImage[]
  readonly #lifetime = new AbortController()
  readonly #held = new DisposableStack()
  readonly #ready = new Map<string, ReadyImage>()
  #working: Promise<void> = Promise.resolve()

  constructor(deps: DeclaredImagesDeps, declared: readonly DeclaredImage[]) {
    this.#deps = deps
    this.#declared = declared
  }

  get ready(): readonly ReadyImage[] {
    return [...this.#ready.values()]
  }

  /** Begins; images are ready one after the other, in the order of the configuration. */
  start(): void {
    this.#working = this.#takeAll().catch((error: unknown) => {
      if (!this.#lifetime.signal.aborted)
        this.#deps.log.error({ err: error }, 'declared images were given up')
    })
  }

  async #takeAll(): Promise<void> {
    const publishing: Promise<void>[] = []
    let waiting: readonly DeclaredImage[] = this.#declared
    while (waiting.length > 0) {
      const failed: DeclaredImage[] = []
      for (const declared of waiting) {
        const image = await this.#take(declared)
        if (image === undefined) failed.push(declared)
        else if (declared.publish) {
          const published = this.#publish(declared.name, image)
          // Waited for below; where that is not reached the node is stopping, which is no crash.
          published.catch(() => undefined)
          publishing.push(published)
        }
      }
      waiting = failed
      if (failed.length > 0) await sleep(this.#deps.clock, AGAIN_MS, this.#lifetime.signal)
    }
    await Promise.all(publishing)
  }

  /** Undefined where it could not be read now, which the log tells. */
  async #take({ name, path, system }: DeclaredImage): Promise<Described | undefined> {
    const { log, store, clock } = this.#deps
    const { signal } = this.#lifetime
    const leftOut = new LeftOut()
    const beganAtMs = clock.nowMs()
    let fileCount = 0
    const sink = {
      async file(file: string) {
        fileCount += 1
        if (fileCount % 10_000 === 0) log.info({ image: name, fileCount }, 'image is being read')
        return store.putFile(file, { move: false })
      },
      async tree(ref: { readonly digest: Digest; readonly size: number }, bytes: Uint8Array) {
        await store.put(bytes, ref)
      },
    }
    log.info({ image: name, path }, 'image is being read')
    try {
      const entry = await readDirectory({ sink, leftOut }, path, { skipsUnreadable: true, signal })
      if (entry.kind !== 'dir') throw new MeshError('MESH0207', `${path} is no directory`)
      const { digest, size } = entry
      this.#held.use(store.leases.use([{ digest, size, kind: 'dir' }]))
      const image = await describeImage(readerOf(store), entry, system)
      this.#ready.set(name, { name, system: image.system, digest })
      this.#deps.onChange()
      const { sizeBytes } = image
      const ms = clock.nowMs() - beganAtMs
      log.info(
        { image: name, digest, system: image.system, sizeBytes, fileCount, ms },
        'image is ready',
      )
      if (leftOut.line !== undefined)
        log.info({ image: name, note: leftOut.line }, 'not all was taken')
      return image
    } catch (error) {
      signal.throwIfAborted()
      log.warn({ err: error, image: name, path }, 'image could not be read')
      return undefined
    }
  }

  /** Until the owner has answered. A name that means another tree stays as it is. */
  async #publish(name: string, image: Described): Promise<void> {
    const { log, clock, ask, self } = this.#deps
    const { signal } = this.#lifetime
    const { peerId, name: node } = self()
    const order: ImageOrder = { ...image, from: { peerId, name: node }, isNew: true }
    for (;;) {
      const { status, body } = await ask(`/api/images/${name}`, JSON.stringify(order))
      signal.throwIfAborted()
      if (status === 200) {
        log.info({ image: name, digest: image.digest }, 'image has its name')
        return
      }
      const problem = problemOf(body)
      // An owner that is away answers later; one that refuses has said so for good.
      if (status < 500 && status !== 429) {
        log.warn(
          { image: name, digest: image.digest, reason: problem },
          'image was not named: it is used here under its digest alone',
        )
        return
      }
      log.debug({ image: name, reason: problem }, 'image is not named yet')
      await sleep(clock, OWNER_AGAIN_MS, signal)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#lifetime.abort(new MeshError('MESH0108', 'the node is stopping'))
    await this.#working
    this.#held.dispose()
  }
}

function problemOf(body: string): string {
  try {
    return Problem.parse(JSON.parse(body)).detail
  } catch {
    // An answer of another version: its text is all there is.
    return body.slice(0, 500)
  }
}

function readerOf(store: Pick<FsBlobStore, 'open'>): ReadBlob {
  return async function* read({ digest }) {
    const reader = await store.open(digest)
    if (reader === undefined) throw new MeshError('MESH0501', `${digest} is not here any more`)
    await using opened = reader
    yield* opened
  }
}
