/** Keeps what is known of a node's blobs elsewhere in step with its store: chunk index, index node, results. */
import type { Logger } from 'pino'
import { ANNOUNCE_BYTES_MIN, type Announcer } from '../../gossip/announcer.ts'
import type { ActionCache } from '../../store/action-cache.ts'
import type { StoredBlob } from '../../store/blob-store.ts'
import type { ChunkIndex } from '../../store/chunks/chunk-index.ts'
import type { FsBlobStore } from '../../store/fs-blob-store.ts'
import { ANNOUNCED_MAX } from '../../wire/announcement.ts'
import type { Digest } from '../../wire/digest.ts'

export interface FollowDeps {
  readonly log: Logger
  readonly store: FsBlobStore
  readonly chunks: Pick<ChunkIndex, 'add'>
  readonly actions: Pick<ActionCache, 'forgetOutputs'>
  readonly announcer: Announcer
  /** Whether another node is known to have it. */
  readonly isElsewhere: (digest: Digest) => boolean
}

/** Until it is disposed of. What is in the store already is announced in the background. */
export function followStore(deps: FollowDeps): Disposable {
  const { log, store, chunks, actions, announcer, isElsewhere } = deps
  const stack = new DisposableStack()
  const lifetime = new AbortController()
  stack.defer(() => lifetime.abort())
  stack.use(
    store.onStored(({ digest, size }) => {
      chunks.add({ digest, size })
      announcer.add(digest, size, 'part')
    }),
  )
  stack.use(
    store.onGone(async ({ digests }) => {
      announcer.forget(digests)
      // A result whose outputs nobody has is worth nothing; one that others can serve stays.
      await actions.forgetOutputs(digests.filter((digest) => !isElsewhere(digest)))
    }),
  )
  announceAll(deps, lifetime.signal).catch((error: unknown) => {
    if (!lifetime.signal.aborted) log.warn({ err: error }, 'the store was not announced')
  })
  return stack
}

/** Pins, and of the blobs that are worth a record those that were used last. */
async function announceAll(
  { store, announcer }: Pick<FollowDeps, 'store' | 'announcer'>,
  signal: AbortSignal,
): Promise<void> {
  await store.recovered
  let newest: StoredBlob[] = []
  for await (const blob of store.list()) {
    signal.throwIfAborted()
    if (blob.size < ANNOUNCE_BYTES_MIN) continue
    newest.push(blob)
    if (newest.length >= 2 * ANNOUNCED_MAX) newest = latest(newest)
  }
  for (const { digest, size } of latest(newest)) announcer.add(digest, size, 'part')
  for (const { digest, size } of store.pins.list()) announcer.add(digest, size, 'root')
}

/** The one that was used last is last. */
function latest(blobs: readonly StoredBlob[]): StoredBlob[] {
  return blobs.toSorted((a, b) => a.usedAtWallMs - b.usedAtWallMs).slice(-ANNOUNCED_MAX)
}
