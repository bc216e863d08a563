/**
 * Makes index and files agree again after the store was not closed, or its index was lost.
 *
 * Neither a commit nor a rename is synced on its own, so after a power cut a file may bear its final name
 * with too few or wrong bytes. The index marks what was not synced; those few are hashed again, each before
 * it is used for the first time and all of them in the background, so that the store is ready at once.
 * Then the listing of the directories is compared with the index, for what a crash cut off halfway.
 */
import { existsSync, lstatSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { nextTurn } from '../../files/map-limited.ts'
import { isDigest, type Digest } from '../../wire/digest.ts'
import type { BlobIndex } from '../blob-index.ts'
import type { BlobFiles } from './blob-files.ts'
import type { Checkpoints } from './checkpoints.ts'
import { namesIn, type Checkpoint, type FsLayout } from './layout.ts'
import type { Trash } from './trash.ts'
import { verifyFile } from './verify.ts'

const FILES_PER_TURN = 256

/**
 * Fills an empty index from the files, before the store is used. Believes the size of a file that was
 * synced when the store was last in order, and marks the others. A look at every file: 15 to 40 s for a
 * million.
 */
export async function rebuildIndex(
  deps: { readonly layout: FsLayout; readonly index: BlobIndex; readonly log: Logger },
  options: { readonly checkpoint: Checkpoint; readonly useTimeMs: () => number },
): Promise<void> {
  const { layout, index, log } = deps
  const { clean, atWallMs } = options.checkpoint
  let seen = 0
  for await (const digest of blobsOnDisk(layout, log)) {
    if (++seen % FILES_PER_TURN === 0) await nextTurn()
    const stat = lstatSync(layout.blob(digest))
    // Something else in its place is found out when it is hashed.
    index.set(digest, {
      sizeBytes: stat.size,
      usedAtMs: options.useTimeMs(),
      // The change time is that of its last rename or link: content and mode do not change after that.
      isSynced: stat.isFile() && (clean || stat.ctimeMs <= atWallMs),
    })
    await index.settle()
  }
  await index.sync()
  if (seen > 0) log.info({ ...index.stats() }, 'index rebuilt from the files')
}

async function* blobsOnDisk(layout: FsLayout, log: Logger): AsyncGenerator<Digest> {
  for (let firstByte = 0; firstByte < 256; firstByte++)
    for (const digest of await digestsIn(layout.prefix(firstByte), log)) yield digest
}

async function digestsIn(directory: string, log: Logger): Promise<Digest[]> {
  const names = await namesIn(directory)
  for (const name of names)
    if (!isDigest(name))
      log.warn({ path: join(directory, name) }, 'foreign file in the store ignored')
  return names.filter(isDigest)
}

/** Blobs whose files may have been cut short, until they are hashed. */
export class Unverified {
  readonly #deps: UnverifiedDeps
  readonly #digests: Set<Digest>
  readonly #checking = new Map<Digest, Promise<void>>()

  constructor(deps: UnverifiedDeps, digests: readonly Digest[]) {
    this.#deps = deps
    this.#digests = new Set(digests)
  }

  get count(): number {
    return this.#digests.size
  }

  has(digest: Digest): boolean {
    return this.#digests.has(digest)
  }

  /** It was written anew. */
  forget(digest: Digest): void {
    this.#digests.delete(digest)
  }

  /** Afterwards it is whole, or gone. */
  check(digest: Digest): Promise<void> {
    const running = this.#checking.get(digest)
    if (running !== undefined) return running
    const checking = this.#check(digest).finally(() => this.#checking.delete(digest))
    this.#checking.set(digest, checking)
    return checking
  }

  async checkAll(signal: AbortSignal): Promise<void> {
    for (const digest of this.#digests) {
      signal.throwIfAborted()
      await this.check(digest)
    }
  }

  async #check(digest: Digest): Promise<void> {
    const { layout, files, checkpoints } = this.#deps
    const { verdict, size } = await verifyFile(layout.blob(digest), digest)
    // Unless it was written anew meanwhile.
    if (!this.#digests.delete(digest)) return
    if (verdict === 'whole' && files.find(digest)?.sizeBytes === size) checkpoints.add(digest)
    else await files.dropDamaged(digest, `${verdict} after an unclean stop`)
  }
}

export interface UnverifiedDeps {
  readonly layout: FsLayout
  readonly files: BlobFiles
  readonly checkpoints: Checkpoints
}

/**
 * Compares the directories with the index, while the store is in use: takes in whole files that the index
 * does not know, removes damaged ones, and forgets blobs without a file.
 */
export async function reconcile(
  deps: {
    readonly layout: FsLayout
    readonly index: BlobIndex
    readonly files: BlobFiles
    readonly trash: Trash
    readonly log: Logger
  },
  signal: AbortSignal,
): Promise<void> {
  const { layout, index, files, trash, log } = deps
  let foundCount = 0
  for (let firstByte = 0; firstByte < 256; firstByte++) {
    signal.throwIfAborted()
    const unknown = new Set(await digestsIn(layout.prefix(firstByte), log))
    const withoutFile: Digest[] = []
    for await (const batch of index.scan({ firstByte }))
      for (const [digest] of batch) if (!unknown.delete(digest)) withoutFile.push(digest)
    for (const digest of withoutFile)
      if (!existsSync(layout.blob(digest))) await files.dropDamaged(digest, 'its file is gone')
    for (const digest of unknown) {
      if (index.find(digest) !== undefined) continue
      const { verdict, size } = await verifyFile(layout.blob(digest), digest)
      if (index.find(digest) !== undefined) continue
      if (verdict === 'whole') {
        files.know({ digest, size })
        foundCount++
      } else if (verdict === 'damaged') trash.take(layout.blob(digest))
    }
  }
  await index.flush()
  log.info({ ...index.stats(), foundCount }, 'store recovered')
}
