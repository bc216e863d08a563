/**
 * What a file store consists of, opened in order and closed in order. Ready within moments whatever the
 * number of blobs: what an unclean stop left is looked at in the background.
 */
import { mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from 'pino'
import type { Clock } from '../../base/clock.ts'
import { inlineFileWorkers, type FileWorkers } from '../../files/workers/file-workers.ts'
import type { Digest } from '../../wire/digest.ts'
import { openBlobIndex, type BlobIndex } from '../blob-index.ts'
import { diskSpace, type DiskSpace } from '../disk.ts'
import { Collector } from '../retention/collector.ts'
import { RECENT_MS } from '../retention/gc-plan.ts'
import { Keeper } from '../retention/keeper.ts'
import { Leases } from '../retention/leases.ts'
import { PartialFiles } from '../retention/partial-files.ts'
import { Pins } from '../retention/pins.ts'
import { Scrubber } from '../retention/scrubber.ts'
import { SpaceMeter, type SpaceLimits } from '../retention/space.ts'
import { BlobFiles } from './blob-files.ts'
import { Checkpoints } from './checkpoints.ts'
import { Executables } from './executables.ts'
import {
  checkFormat,
  FsLayout,
  readCheckpoint,
  writeCheckpoint,
  writeFormat,
  type Checkpoint,
} from './layout.ts'
import { rebuildIndex, reconcile, Unverified } from './recovery.ts'
import { Trash } from './trash.ts'
import { verifyFile, type Pace } from './verify.ts'

export interface StoreDeps {
  readonly clock: Clock
  readonly log: Logger
  /** Without them all is done on the main thread. */
  readonly workers?: FileWorkers
  /** Room on the disk of the store; asked every half minute and before a put is refused. */
  readonly measureDisk?: () => Promise<DiskSpace>
}

export interface StoreOptions extends SpaceLimits {
  readonly directory: string
  /** A blob used this lately is only removed for the disk's sake; an hour. */
  readonly recentMs?: number | undefined
  readonly scrub?: { readonly roundMs?: number; readonly bytesPerSecondMin?: number } | undefined
}

export interface StoreParts extends AsyncDisposable {
  readonly workers: FileWorkers
  readonly layout: FsLayout
  readonly index: BlobIndex
  readonly files: BlobFiles
  readonly checkpoints: Checkpoints
  readonly executables: Executables
  readonly partials: PartialFiles
  readonly trash: Trash
  readonly unverified: Unverified
  readonly pins: Pins
  readonly leases: Leases
  readonly meter: SpaceMeter
  readonly keeper: Keeper
  readonly scrubber: Scrubber
  readonly recovered: Promise<void>
}

export async function openStoreParts(deps: StoreDeps, options: StoreOptions): Promise<StoreParts> {
  const layout = new FsLayout(options.directory)
  checkFormat(layout.directory)
  mkdirSync(layout.blobs, { recursive: true })
  // From here on the store is ours alone.
  const { index, isNew } = await openBlobIndex({ log: deps.log }, { directory: layout.index })
  try {
    writeFormat(layout.directory)
    const checkpoint = readCheckpoint(layout.directory)
    await writeCheckpoint(layout.directory, { atWallMs: checkpoint.atWallMs, clean: false })
    const useTimeMs = timeOfUse(deps.clock, index.lastUseMs)
    if (isNew) await rebuildIndex({ layout, index, log: deps.log }, { checkpoint, useTimeMs })
    return await assemble(deps, options, { layout, index, checkpoint, isNew, useTimeMs })
  } catch (error) {
    await index.close()
    throw error
  }
}

/**
 * Times of use go on where those of the last process ended and follow the monotonic clock: a wall clock that
 * jumps makes nothing look old, and one that was wrong once makes nothing look used for ever.
 */
function timeOfUse(clock: Clock, lastUseMs: number): () => number {
  const beganAtMs = clock.nowMs()
  const baseMs = Math.max(clock.wallMs(), lastUseMs)
  return () => baseMs + clock.nowMs() - beganAtMs
}

interface Opened {
  readonly layout: FsLayout
  readonly index: BlobIndex
  readonly checkpoint: Checkpoint
  readonly isNew: boolean
  readonly useTimeMs: () => number
}

async function assemble(
  deps: StoreDeps,
  options: StoreOptions,
  opened: Opened,
): Promise<StoreParts> {
  const { clock, log } = deps
  const { layout, index, checkpoint, isNew, useTimeMs } = opened
  const trash = new Trash({ log }, { directory: layout.trash })
  mkdirSync(layout.temporary, { recursive: true })
  for (const name of readdirSync(layout.temporary)) trash.take(join(layout.temporary, name))
  // Copies of blobs that may be damaged themselves; made again when they are needed.
  const made = checkpoint.clean ? checkpoint.executables : undefined
  if (made === undefined) trash.take(layout.executables)
  const executables = new Executables({ layout, trash }, { stats: made ?? { count: 0, bytes: 0 } })
  const checkpoints = new Checkpoints({ clock, log, layout, index }, checkpoint)
  const files = new BlobFiles({ log, layout, index, checkpoints, executables, trash, useTimeMs })
  const unverified = new Unverified({ layout, files, checkpoints }, await index.unsynced())
  const core = { layout, index, files, checkpoints, executables, trash, unverified, useTimeMs }
  const retention = await openRetention(deps, options, core)
  const scrubber = openScrubber(deps, options, core)

  const lifetime = new AbortController()
  let isRecovered = checkpoint.clean || isNew
  const recover = async (): Promise<void> => {
    await unverified.checkAll(lifetime.signal)
    if (!isRecovered) await reconcile({ layout, index, files, trash, log }, lifetime.signal)
    isRecovered = true
  }
  const recovered = recover().catch((error: unknown) => {
    // The next start tries again.
    isRecovered = false
    if (!lifetime.signal.aborted) log.error({ err: error }, 'recovery failed')
  })
  checkpoints.start()
  retention.keeper.start()
  scrubber.start()

  return {
    ...core,
    ...retention,
    scrubber,
    recovered,
    workers: deps.workers ?? inlineFileWorkers(),
    async [Symbol.asyncDispose]() {
      lifetime.abort(new Error('the store is closing'))
      await recovered
      await Promise.all(
        [scrubber, retention.keeper, trash].map((part) => part[Symbol.asyncDispose]()),
      )
      let atWallMs: number
      try {
        atWallMs = await checkpoints.close()
      } finally {
        await index.close()
      }
      await writeCheckpoint(layout.directory, {
        atWallMs,
        clean: isRecovered && unverified.count === 0,
        executables: executables.stats(),
      })
    },
  }
}

type Core = Pick<
  StoreParts,
  'layout' | 'index' | 'files' | 'executables' | 'trash' | 'unverified'
> & { readonly useTimeMs: () => number }

async function openRetention(
  { clock, log, measureDisk }: StoreDeps,
  { quotaBytes, floorBytes, recentMs = RECENT_MS }: StoreOptions,
  { layout, index, files, executables, trash, useTimeMs }: Core,
): Promise<Pick<StoreParts, 'pins' | 'leases' | 'partials' | 'meter' | 'keeper'>> {
  const pins = new Pins(
    { log, onAdded: (entry) => collector.added('pinned', entry) },
    { directory: layout.pins },
  )
  const leases = new Leases({ clock, onAdded: (entry) => collector.added('leased', entry) })
  const collector = new Collector(
    {
      log,
      index,
      pins,
      leases,
      useTimeMs,
      read: (digest, bytesMax) => files.readQuietly(digest, bytesMax),
      remove: (digests) => files.remove(digests, 'evicted'),
    },
    { recentMs },
  )
  const partials = new PartialFiles({ directory: layout.partials })
  const measure = measureDisk ?? (() => diskSpace(layout.directory))
  const stored = (): number =>
    index.stats().bytes + executables.stats().bytes + partials.stats().bytes
  const meter = new SpaceMeter(
    { measure, stored },
    { quotaBytes, floorBytes, disk: await measure() },
  )
  const keeper = new Keeper(
    {
      clock,
      log,
      meter,
      collect: (request, signal) => collector.collect(request, signal),
      emptyTrash: () => trash.empty(),
      measure: async () => void (await partials.measure()),
    },
    { where: layout.directory },
  )
  return { pins, leases, partials, meter, keeper }
}

function openScrubber(
  { clock, log }: StoreDeps,
  options: StoreOptions,
  { layout, index, files, executables, unverified }: Core,
): Scrubber {
  const check = async (digest: Digest, pace: Pace): Promise<void> => {
    if (unverified.has(digest)) await unverified.check(digest)
    const record = index.find(digest)
    if (record === undefined) return
    const { verdict } = await verifyFile(layout.blob(digest), digest, pace)
    if (verdict !== 'whole') await files.dropDamaged(digest, `${verdict} on the disk`)
    const copy = await verifyFile(layout.executable(digest), digest, pace)
    if (copy.verdict === 'damaged') executables.drop({ digest, size: record.sizeBytes })
  }
  return new Scrubber(
    { clock, log, index, check },
    { ...options.scrub, file: join(layout.directory, 'scrub.json') },
  )
}
