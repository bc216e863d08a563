/** The mirrors of a node: those that it uses, as people see them, and the one that it is (role `mirror`). */
import type { Logger } from 'pino'
import type { Clock } from '../../base/clock.ts'
import type { BlobSource } from '../../store/blob-source.ts'
import type { BlobStore } from '../../store/blob-store.ts'
import { openPullThrough, type PullThrough } from '../../store/mirror/pull-through.ts'
import { within } from '../../store/stall-limit.ts'
import type { BlobRef, Digest } from '../../wire/digest.ts'
import type { MirrorView } from '../../wire/mirrors.ts'
import type { Located } from '../../wire/work-messages.ts'
import type { Blobs } from '../blobs/blobs.ts'

/** Peers that are not known by then are not asked. */
const LOCATE_MS = 2_000

export function mirrorViews(
  { mirrors, health }: Pick<Blobs, 'mirrors' | 'health'>,
  clock: Clock,
): MirrorView[] {
  return mirrors.map((mirror) => {
    const report = health.report(mirror, clock.nowMs())
    const { state, reason, suspendedMs, firstByteMs, bytesPerS, asks, hits, bytes } = report
    return {
      url: mirror.name,
      state,
      reason: reason ?? null,
      until: suspendedMs === 0 ? null : new Date(clock.wallMs() + suspendedMs).toISOString(),
      latencyMs: rounded(firstByteMs),
      bytesPerS: rounded(bytesPerS),
      asks,
      hits,
      bytes,
    }
  })
}

const rounded = (value: number | undefined): number | null =>
  value === undefined ? null : Math.round(value)

/** What a node with the role `mirror` answers with: its store, and behind it peers and its own mirrors. */
export function openMirrorRole(
  deps: {
    readonly clock: Clock
    readonly log: Logger
    readonly store: BlobStore
    readonly reserve: (sizeBytes: number) => Promise<Disposable>
    readonly blobs: Pick<Blobs, 'mirrors' | 'health' | 'sourcesOf' | 'obtain'>
    /** Whoever may have one of them. */
    readonly locate: (refs: BlobRef[], signal: AbortSignal) => Promise<Pick<Located, 'peers'>>
  },
  options: { readonly directory: string },
): PullThrough {
  const { clock, log, store, reserve, blobs } = deps
  const located = async (digest: Digest, signal: AbortSignal): Promise<readonly BlobSource[]> => {
    try {
      const { peers } = await within(
        clock,
        deps.locate([{ digest, size: 0 }], signal),
        LOCATE_MS,
        () => new Error(`no answer in ${LOCATE_MS} ms`),
      )
      // Two mirrors that ask each other would both wait.
      return blobs.sourcesOf(peers.filter(({ roles }) => !roles.includes('mirror')))
    } catch (error) {
      signal.throwIfAborted()
      log.debug({ err: error, digest }, 'blob could not be located')
      return []
    }
  }
  return openPullThrough(
    {
      store,
      reserve,
      clock,
      log,
      health: blobs.health,
      stages: (digest, signal) => [() => located(digest, signal), async () => blobs.mirrors],
      obtain: (ref, signal) =>
        blobs.obtain({ kind: 'file', ...ref, executable: false }, { peers: [], signal }),
    },
    options,
  )
}
