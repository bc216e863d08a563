/** Garbage collection in a store of files: what goes, what stays, when, and what it says. */
import assert from 'node:assert/strict'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import type { DiskSpace } from '../../src/store/disk.ts'
import { openFsBlobStore, type FsBlobStore } from '../../src/store/fs-blob-store.ts'
import type { SpaceLimits } from '../../src/store/retention/space.ts'
import type { BlobRef, Digest } from '../../src/wire/digest.ts'
import { encodeTree } from '../../src/wire/tree.ts'
import { bytesOf, inPieces, readAll, refOf } from '../contract/blob-store.ts'
import { log, StepClock, temporaryDirectory, turnOver } from './support.ts'

const HOUR_MS = 60 * 60_000
const SIZE = 1_000

/** A store with time and a disk of its own. */
async function openStore(limits: SpaceLimits & { readonly directory?: string } = {}): Promise<
  AsyncDisposable & {
    readonly store: FsBlobStore
    readonly clock: StepClock
    readonly directory: string
    readonly disk: { totalBytes: number; freeBytes: number }
    /** Half a minute later, when the store has looked at the disk and decided. */
    readonly checked: () => Promise<void>
    /** Puts a blob that is like no other. */
    readonly put: (size?: number) => Promise<BlobRef>
    readonly has: (...refs: readonly BlobRef[]) => Promise<boolean[]>
  }
> {
  const own = temporaryDirectory()
  const directory = limits.directory ?? own.path
  const clock = new StepClock()
  const disk = { totalBytes: 10 ** 9, freeBytes: 10 ** 9 }
  const measured = { count: 0 }
  const measureDisk = async (): Promise<DiskSpace> => {
    measured.count++
    return { ...disk }
  }
  const store = await openFsBlobStore(
    { clock, log, measureDisk },
    { floorBytes: 0, ...limits, directory },
  )
  let seed = 0
  const idle = async (): Promise<void> => {
    for (let round = 0; round < 3; round++) {
      for (let turn = 0; turn < 20; turn++) await turnOver()
      await store.collect({ freeBytes: 0, takesRecent: false, isDryRun: true })
    }
  }
  return {
    store,
    clock,
    directory,
    disk,
    async checked() {
      // What is under way ends first, or the check would join it.
      await idle()
      const before = measured.count
      clock.step(30_000)
      while (measured.count === before) await turnOver()
      await idle()
    },
    put: (size = SIZE) => store.put(bytesOf(size, ++seed)),
    has: (...refs) => Promise.all(refs.map(({ digest }) => store.has(digest))),
    async [Symbol.asyncDispose]() {
      await store[Symbol.asyncDispose]()
      own[Symbol.dispose]()
    },
  }
}

const all = { freeBytes: Infinity, takesRecent: false }
const fileOf = (ref: BlobRef) => ({ ...ref, kind: 'file' as const })
const pinOf = (ref: BlobRef, kind: 'file' | 'dir') => ({ ...ref, kind, label: '', atWall: '' })

test('collect: the least recently used go first, and reading is use', async () => {
  await using lab = await openStore()
  const { store, clock } = lab
  const refs: BlobRef[] = []
  for (let at = 0; at < 6; at++) {
    refs.push(await lab.put())
    clock.step(HOUR_MS)
  }
  const [a, b, c, d, e, f] = refs
  assert(a && b && c && d && e && f)
  await store.read(a.digest, SIZE)
  await readAll(await store.open(b.digest))
  await store.pathOf(c.digest, true)
  clock.step(2 * HOUR_MS)
  const report = await store.collect({ freeBytes: 2 * SIZE, takesRecent: false })
  assert.deepEqual(report.evicted, { count: 2, bytes: 2 * SIZE })
  assert.equal(report.shortBytes, 0)
  assert.deepEqual(await lab.has(...refs), [true, true, true, false, false, true])
  assert.deepEqual(store.stats(), { count: 4, bytes: 4 * SIZE })
  assert.equal(existsSync(join(lab.directory, 'blob', d.digest.slice(0, 2), d.digest)), false)
  assert.deepEqual(readdirSync(join(lab.directory, 'trash')), [])
})

test('collect: a dry run says the same and removes nothing', async () => {
  await using lab = await openStore()
  const refs = [await lab.put(), await lab.put()]
  lab.clock.step(2 * HOUR_MS)
  const plan = await lab.store.collect({ ...all, isDryRun: true })
  assert.deepEqual([plan.evict, plan.evicted.count], [{ count: 2, bytes: 2 * SIZE }, 0])
  assert.deepEqual(await lab.has(...refs), [true, true])
  assert.equal(lab.store.space().freeableBytes, 2 * SIZE)
  const report = await lab.store.collect(all)
  assert.deepEqual(report.evicted, plan.evict)
  assert.equal(lab.store.space().freeableBytes, 0)
})

test('collect: pins, leases and use keep, trees with all that is in them', async () => {
  await using lab = await openStore()
  const { store, clock } = lab
  const names = ['leaf', 'other', 'leased', 'used', 'loose', 'late'] as const
  const refs = new Map<string, BlobRef>()
  for (const name of names) refs.set(name, await lab.put())
  const get = (name: (typeof names)[number]): BlobRef => refs.get(name) ?? assert.fail()
  const tree = (...names_: (typeof names)[number][]) =>
    store.put(
      encodeTree(
        names_.map((name) => ({
          name,
          entry: { ...fileOf(get(name)), executable: false },
        })),
      ),
    )
  const pinned = await tree('leaf')
  const leased = await tree('leased', 'leaf')
  store.pins.add(pinOf(pinned, 'dir'))
  store.leases.hold('owner', [{ ...leased, kind: 'dir' }, fileOf(refOf(bytesOf(5)))], 10 * HOUR_MS)
  clock.step(2 * HOUR_MS)
  {
    using _ = store.leases.use([fileOf(get('used'))])
    const { classes, evicted } = await store.collect(all)
    assert.equal(evicted.count, 3)
    assert.deepEqual(await lab.has(...names.map(get)), [true, false, true, true, false, false])
    assert.deepEqual([classes.pinned.count, classes.leased.count, classes.idle.count], [2, 3, 3])
  }
  clock.step(9 * HOUR_MS)
  await store.collect(all)
  assert.deepEqual(await lab.has(get('leaf'), get('leased'), get('used')), [true, false, false])
  store.pins.remove(pinned.digest)
  await store.collect(all)
  assert.deepEqual(store.stats(), { count: 0, bytes: 0 })
})

test('collect: what is kept while it goes on stays', async () => {
  await using lab = await openStore()
  const { store, clock } = lab
  const refs = await Promise.all(Array.from({ length: 600 }, () => lab.put(10)))
  const late = refs.toSorted((x, y) => (x.digest < y.digest ? -1 : 1)).slice(-40)
  clock.step(2 * HOUR_MS)
  let told = 0
  store.onGone(() => {
    // Everything is marked by now, and the first batch is going.
    if (told++ > 0) return
    store.leases.hold('a', late.slice(0, 10).map(fileOf), HOUR_MS)
    for (const ref of late.slice(10, 20)) store.pins.add(pinOf(ref, 'file'))
    for (const { digest } of late.slice(20, 30)) void store.read(digest, 10)
  })
  await store.collect(all)
  assert(told > 1)
  assert.deepEqual(
    await lab.has(...late),
    late.map((_, at) => at < 30),
  )
  assert.equal(store.stats().count, 30)
})

test('collect: who cares is told before the files go, and an error keeps them', async () => {
  await using lab = await openStore()
  const { store, clock, directory } = lab
  const refs = [await lab.put(), await lab.put()]
  const gone: Digest[] = []
  let isBroken = true
  store.onGone(async ({ digests, reason }) => {
    assert.equal(reason, 'evicted')
    await turnOver()
    for (const digest of digests) {
      assert(existsSync(join(directory, 'blob', digest.slice(0, 2), digest)))
      assert.equal(await store.has(digest), false)
    }
    if (isBroken) throw new Error('results not forgotten')
    gone.push(...digests)
  })
  clock.step(2 * HOUR_MS)
  await assert.rejects(store.collect(all), /results not forgotten/)
  assert.deepEqual(await lab.has(...refs), [true, true])
  assert.deepEqual(store.stats(), { count: 2, bytes: 2 * SIZE })
  isBroken = false
  await store.collect(all)
  assert.deepEqual(gone.toSorted(), refs.map(({ digest }) => digest).toSorted())
})

test('collect: a blob that is put again while it goes is there', async () => {
  await using lab = await openStore()
  const { store, clock } = lab
  const bytes = bytesOf(300_000)
  const ref = await store.put(bytes)
  clock.step(2 * HOUR_MS)
  const reader = await store.open(ref.digest)
  clock.step(2 * HOUR_MS)
  store.onGone(async () => {
    // T7: an upload of just this blob under way.
    await store.put(inPieces(bytes), ref)
  })
  const { evicted } = await store.collect(all)
  assert.equal(evicted.count, 1)
  assert.deepEqual(await readAll(await store.open(ref.digest)), bytes)
  // Who had it open reads on.
  assert.deepEqual(await readAll(reader), bytes)
  assert.deepEqual(store.stats(), { count: 1, bytes: 300_000 })
  assert.deepEqual(readdirSync(join(lab.directory, 'tmp')), [])
})

test('collect: a put over the high water has it done, down to the low water', async () => {
  await using lab = await openStore({ quotaBytes: 100 * SIZE })
  const { store, clock } = lab
  for (let at = 0; at < 90; at++) {
    await lab.put()
    clock.step(2 * 60_000)
  }
  clock.step(HOUR_MS)
  assert.equal(store.stats().count, 90)
  await lab.put()
  while (store.stats().count > 80) await turnOver()
  assert.equal(store.stats().count, 80)
  assert.equal(store.space().state, 'ok')
})

test('collect: after a start holders of leases are waited for, unless there is no time', async () => {
  using directory = temporaryDirectory()
  const limits = { directory: directory.path, quotaBytes: 100 * SIZE }
  {
    await using lab = await openStore(limits)
    await Promise.all(Array.from({ length: 95 }, () => lab.put()))
    lab.clock.step(24 * HOUR_MS)
    await lab.store.put(bytesOf(1))
  }
  {
    await using lab = await openStore({ ...limits, quotaBytes: 1000 * SIZE })
    lab.clock.step(24 * HOUR_MS)
    await lab.store.put(bytesOf(2))
  }
  await using lab = await openStore(limits)
  await lab.checked()
  assert.deepEqual([lab.store.stats().count > 90, lab.store.space().state], [true, 'ok'])
  await lab.store.put(bytesOf(30 * SIZE, 99))
  assert(lab.store.stats().count < 90)
})

test('collect: a put that does not fit waits for room, or is refused before its bytes come', async () => {
  await using lab = await openStore({ quotaBytes: 100 * SIZE })
  const { store, clock } = lab
  const old = await lab.put(50 * SIZE)
  clock.step(2 * HOUR_MS)
  const big = bytesOf(60 * SIZE, 77)
  await store.put(inPieces(big), refOf(big))
  assert.deepEqual(await lab.has(old), [false])
  let isAsked = false
  const never = async function* (): AsyncGenerator<Uint8Array> {
    isAsked = true
    yield big
  }
  const other = refOf(bytesOf(60 * SIZE, 78))
  await assert.rejects(store.put(never(), other), (error: Error) => {
    assert.match(error.message, /holds 58\.6 KiB of its quota of 97\.7 KiB; 58\.6 KiB are being/)
    return 'code' in error && error.code === 'MESH0503'
  })
  assert.equal(isAsked, false)
  // Of one that comes without a size, no more than fits is taken.
  await assert.rejects(store.put(inPieces(bytesOf(60 * SIZE, 78), SIZE)), { code: 'MESH0503' })
  assert.deepEqual(readdirSync(join(lab.directory, 'tmp')), [])
  assert.equal(store.space().reservedBytes, 0)
  assert.deepEqual(store.stats(), { count: 1, bytes: 60 * SIZE })
})

test('collect: reservations count, and end', async () => {
  await using lab = await openStore({ quotaBytes: 100 * SIZE })
  const { store } = lab
  const reservation = await store.reserve(70 * SIZE)
  await assert.rejects(store.reserve(40 * SIZE), { code: 'MESH0503' })
  await assert.rejects(lab.put(40 * SIZE), { code: 'MESH0503' })
  assert.equal(store.space().reservedBytes, 70 * SIZE)
  reservation[Symbol.dispose]()
  reservation[Symbol.dispose]()
  assert.equal(store.space().reservedBytes, 0)
  await lab.put(40 * SIZE)
})

test('collect: full is a state that begins when nothing helps, and ends well below', async () => {
  await using lab = await openStore({ quotaBytes: 100 * SIZE })
  const { store, clock } = lab
  const states: string[] = []
  using _ = store.onSpace(({ state }) => void states.push(state))
  // After a start the holders of leases are waited for.
  clock.step(10 * 60_000)
  const kept = await Promise.all(Array.from({ length: 92 }, () => lab.put()))
  store.leases.hold('owner', kept.map(fileOf), 100 * HOUR_MS)
  await lab.checked()
  assert.equal(store.space().state, 'full')
  // Just below the high water it is full still.
  await store.delete(kept[0]?.digest ?? assert.fail())
  await store.delete(kept[1]?.digest ?? assert.fail())
  await store.delete(kept[2]?.digest ?? assert.fail())
  await lab.checked()
  assert.equal(store.space().state, 'full')
  store.leases.drop('owner')
  clock.step(2 * HOUR_MS)
  await store.collect({ freeBytes: 5 * SIZE, takesRecent: false })
  await lab.checked()
  assert.deepEqual(states, ['full', 'ok'])
})

test('collect: for the floor of the disk what was used lately goes too, but not what was just made', async () => {
  await using lab = await openStore({ floorBytes: 100 * SIZE })
  const { store, clock, disk } = lab
  const idle = await lab.put()
  clock.step(2 * HOUR_MS)
  const recent = await lab.put()
  clock.step(10 * 60_000)
  const fresh = await lab.put()
  // Removing frees nothing on this disk, as when other names of the files exist.
  disk.freeBytes = 99 * SIZE
  await lab.checked()
  assert.equal(store.space().state, 'full')
  assert.deepEqual(await lab.has(idle, recent, fresh), [false, false, true])
  disk.freeBytes = 105 * SIZE
  await lab.checked()
  assert.equal(store.space().state, 'full')
  disk.freeBytes = 111 * SIZE
  await lab.checked()
  assert.equal(store.space().state, 'ok')
  assert.deepEqual(await lab.has(fresh), [true])
})

test('collect: the floor is by default 5 % or 10 GiB, of small disks a quarter', async () => {
  const gib = 1024 ** 3
  for (const [totalBytes, floorBytes] of [
    [1000 * gib, 50 * gib],
    [100 * gib, 10 * gib],
    [8 * gib, 2 * gib],
  ] as const) {
    using directory = temporaryDirectory()
    await using store = await openFsBlobStore(
      {
        clock: new StepClock(),
        log,
        measureDisk: async () => ({ totalBytes, freeBytes: totalBytes }),
      },
      { directory: directory.path },
    )
    assert.equal(store.space().floorBytes, floorBytes)
  }
})

test('collect: usage tells classes, executables, partial blobs and trash apart', async () => {
  await using lab = await openStore()
  const { store, clock } = lab
  const [pinned, leased] = [await lab.put(), await lab.put(2 * SIZE)]
  clock.step(2 * HOUR_MS)
  await lab.put()
  clock.step(5 * 60_000)
  const tool = await lab.put(3 * SIZE)
  await store.pathOf(tool.digest, true)
  store.pins.add(pinOf(pinned, 'file'))
  store.leases.hold('owner', [fileOf(leased)], HOUR_MS)
  const usage = await store.usage()
  assert.deepEqual(usage, {
    classes: {
      pinned: { count: 1, bytes: SIZE },
      leased: { count: 1, bytes: 2 * SIZE },
      recent: { count: 2, bytes: 4 * SIZE },
      idle: { count: 0, bytes: 0 },
    },
    executables: { count: 1, bytes: 3 * SIZE },
    partial: { count: 0, bytes: 0 },
    trash: { count: 0, bytes: 0 },
  })
  assert.equal(store.space().usedBytes, 10 * SIZE)
  await store.delete(tool.digest)
  assert.equal(store.space().usedBytes, 4 * SIZE)
})

test('collect: executables and pins are counted again after a restart', async () => {
  using directory = temporaryDirectory()
  {
    await using lab = await openStore({ directory: directory.path })
    const tool = await lab.put()
    await lab.store.pathOf(tool.digest, true)
    lab.store.pins.add(pinOf(tool, 'file'))
  }
  await using lab = await openStore({ directory: directory.path })
  assert.deepEqual((await lab.store.usage()).executables, { count: 1, bytes: SIZE })
  lab.clock.step(2 * HOUR_MS)
  assert.equal((await lab.store.collect(all)).classes.pinned.count, 1)
})

test('collect: a wall clock that jumps makes nothing old, and nothing used for ever', async () => {
  using directory = temporaryDirectory()
  class JumpingClock extends StepClock {
    jumpMs = 0
    override wallMs(): number {
      return super.wallMs() + this.jumpMs
    }
  }
  const open = (clock: StepClock): Promise<FsBlobStore> =>
    openFsBlobStore({ clock, log }, { directory: directory.path, floorBytes: 0 })
  const wrong = new JumpingClock()
  let ref: BlobRef
  {
    await using store = await open(wrong)
    ref = await store.put(bytesOf(SIZE))
    wrong.jumpMs = 1000 * 24 * HOUR_MS
    assert.equal((await store.collect(all)).evicted.count, 0)
    // Now the next process starts in the wrong time.
  }
  {
    await using store = await open(wrong)
    await store.read(ref.digest, SIZE)
  }
  const right = new StepClock()
  await using store = await open(right)
  assert.equal((await store.collect({ ...all, takesRecent: true })).evicted.count, 0)
  right.step(2 * HOUR_MS)
  assert.equal((await store.collect(all)).evicted.count, 1)
})
