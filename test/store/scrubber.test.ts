/** Rot: found by the scrubber in its round, by a complaint at once, and told. */
import assert from 'node:assert/strict'
import { chmodSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import type { Gone } from '../../src/store/fs/blob-files.ts'
import { openFsBlobStore, type FsBlobStore } from '../../src/store/fs-blob-store.ts'
import type { Digest } from '../../src/wire/digest.ts'
import { bytesOf } from '../contract/blob-store.ts'
import { log, StepClock, temporaryDirectory, turnOver } from './support.ts'

const DAY_MS = 24 * 60 * 60_000

const pathIn = (directory: string, digest: Digest): string =>
  join(directory, 'blob', digest.slice(0, 2), digest)

/** Other bytes of the same size. */
function rot(path: string): void {
  chmodSync(path, 0o644)
  const bytes = readFileSync(path)
  bytes[0] = (bytes[0] ?? 0) ^ 1
  writeFileSync(path, bytes)
}

function open(
  clock: StepClock,
  directory: string,
  scrub: { readonly roundMs?: number; readonly bytesPerSecondMin?: number } = {},
): Promise<FsBlobStore> {
  return openFsBlobStore({ clock, log }, { directory, floorBytes: 0, scrub })
}

/** Steps until it is so, giving I/O its turns. */
async function stepUntil(clock: StepClock, ms: number, isSo: () => boolean): Promise<void> {
  while (!isSo()) {
    for (let turn = 0; turn < 20 && !isSo(); turn++) await turnOver()
    if (!isSo()) clock.step(ms)
  }
}

test('scrubber: a damaged blob is found in the round, dropped and told', async () => {
  using directory = temporaryDirectory()
  const clock = new StepClock()
  await using store = await open(clock, directory.path)
  const refs = []
  for (let seed = 0; seed < 20; seed++) refs.push(await store.put(bytesOf(10_000 + seed, seed)))
  const [rotten, shorter, vanished, tool] = refs
  assert(rotten && shorter && vanished && tool)
  rot(pathIn(directory.path, rotten.digest))
  chmodSync(pathIn(directory.path, shorter.digest), 0o644)
  truncateSync(pathIn(directory.path, shorter.digest), 1)
  rmSync(pathIn(directory.path, vanished.digest))
  const executable = await store.pathOf(tool.digest, true)
  rot(executable ?? assert.fail())
  const gone: Gone[] = []
  store.onGone((what) => void gone.push(what))
  await stepUntil(
    clock,
    10_000,
    () => gone.length === 3 && store.space().usedBytes === store.stats().bytes,
  )
  assert(gone.every(({ reason }) => reason === 'damaged'))
  assert.deepEqual(
    new Set(gone.flatMap(({ digests }) => digests)),
    new Set([rotten, shorter, vanished].map(({ digest }) => digest)),
  )
  assert.equal(store.stats().count, 17)
  // The executable copy is made anew from the blob.
  const again = await store.pathOf(tool.digest, true)
  assert.deepEqual(readFileSync(again ?? assert.fail()), bytesOf(10_003, 3))
})

test('scrubber: a complaint is looked into at once', async () => {
  using directory = temporaryDirectory()
  const clock = new StepClock()
  await using store = await open(clock, directory.path)
  const good = await store.put(bytesOf(1_000_000, 1))
  const bad = await store.put(bytesOf(1_000_000, 2))
  rot(pathIn(directory.path, bad.digest))
  const gone: Digest[] = []
  store.onGone(({ digests }) => void gone.push(...digests))
  store.suspect(good.digest)
  store.suspect(bad.digest)
  while (gone.length === 0) await turnOver()
  assert.deepEqual(gone, [bad.digest])
  assert.equal(await store.has(good.digest), true)
  assert.equal(await store.has(bad.digest), false)
})

test('scrubber: reads no faster than it may, and takes up where it was', async () => {
  using directory = temporaryDirectory()
  const clock = new StepClock()
  const scrub = { bytesPerSecondMin: 64 * 1024, roundMs: 1000 * DAY_MS }
  // One file a second, ten of them in a burst.
  const progress = (): { after: string | null } =>
    JSON.parse(readFileSync(join(directory.path, 'scrub.json'), 'utf8'))
  const digests: Digest[] = []
  {
    await using store = await open(clock, directory.path, scrub)
    for (let seed = 0; seed < 100; seed++)
      digests.push((await store.put(bytesOf(100, seed))).digest)
    digests.sort()
    const [rotten] = digests.slice(25)
    assert(rotten !== undefined)
    rot(pathIn(directory.path, rotten))
    const found: Digest[] = []
    store.onGone((what) => void found.push(...what.digests))
    await stepUntil(clock, 10_000, () => found.length > 0)
  }
  const at = digests.findIndex((digest) => digest === progress().after)
  assert(at >= 24 && at <= clock.nowMs() / 1000, `after ${at} in ${clock.nowMs()} ms`)
  // What was checked is not checked again in this round; what was not is.
  const [before, behind] = [digests[at - 5], digests[at + 5]]
  assert(before !== undefined && behind !== undefined)
  for (const digest of [before, behind]) rot(pathIn(directory.path, digest))
  const gone: Digest[] = []
  await using store = await open(clock, directory.path, scrub)
  store.onGone((what) => void gone.push(...what.digests))
  await stepUntil(clock, 10_000, () => progress().after === null)
  assert.deepEqual(gone, [behind])
})

test('scrubber: goes round once in the time of a round', async () => {
  using directory = temporaryDirectory()
  const clock = new StepClock()
  await using store = await open(clock, directory.path, { roundMs: 30 * DAY_MS })
  const { digest } = await store.put(bytesOf(1_000))
  const progress = (): { after: string | null; roundBeganAtWallMs: number } =>
    JSON.parse(readFileSync(join(directory.path, 'scrub.json'), 'utf8'))
  const isThrough = (): boolean => {
    try {
      return progress().after === null
    } catch {
      return false // not yet written
    }
  }
  await stepUntil(clock, 10_000, isThrough)
  const { roundBeganAtWallMs } = progress()
  rot(pathIn(directory.path, digest))
  const { promise: gone, resolve } = Promise.withResolvers<void>()
  store.onGone(() => resolve())
  const sinceMs = (): number => clock.wallMs() - roundBeganAtWallMs
  const stepTo = async (ms: number): Promise<void> => {
    while (sinceMs() < ms) {
      clock.step(Math.min(60 * 60_000, ms - sinceMs()))
      for (let turn = 0; turn < 20; turn++) await turnOver()
    }
  }
  await stepTo(30 * DAY_MS - 1)
  assert.equal(store.stats().count, 1)
  await stepTo(30.5 * DAY_MS)
  // The clock stands still: what is found now was looked for by then.
  await gone
  assert.equal(store.stats().count, 0)
})
