/** A file that is read while it is written. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readdirSync, readlinkSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { Spool } from '../../src/store/mirror/spool.ts'
import { bytesOf, readAll } from '../contract/blob-store.ts'
import { temporaryDirectory, turnOver } from './support.ts'

const BYTES = bytesOf(1_000_000)

/** Descriptors of this process that lead into the directory. */
const openFiles = (directory: string): number =>
  readdirSync('/proc/self/fd').filter((name) => {
    try {
      return readlinkSync(`/proc/self/fd/${name}`).startsWith(directory)
    } catch {
      return false // the descriptor of the listing itself
    }
  }).length

test('spool: readers follow the writer, each from where it begins, and end when it is accepted', async () => {
  using directory = temporaryDirectory()
  const spool = new Spool(join(directory.path, 'one'))
  const readers = [
    [0, BYTES.byteLength],
    [500_000, 500_010],
    [999_990, BYTES.byteLength],
    [7, 7],
  ] as const
  const results = readers.map(([start, end]) => readAll(spool.read(start, end)))
  for (let at = 0; at < BYTES.byteLength; at += 100_000)
    await spool.append(BYTES.subarray(at, at + 100_000))
  await spool.flush()
  rmSync(spool.path) // as when the store took it
  spool.accept()
  const late = readAll(spool.read(1, BYTES.byteLength))
  for (const [index, [start, end]] of readers.entries())
    assert.deepEqual(await results[index], BYTES.subarray(start, end))
  assert.deepEqual(await late, BYTES.subarray(1))
  assert.equal(openFiles(directory.path), 0)
})

test('spool: the last byte waits until the whole is accepted, and a break is an error', async () => {
  using directory = temporaryDirectory()
  const spool = new Spool(join(directory.path, 'one'))
  await spool.append(BYTES)
  const got: { bytes: number; error?: unknown } = { bytes: 0 }
  const reading = (async () => {
    for await (const piece of spool.read(0, 1000)) got.bytes += piece.byteLength
  })().catch((error: unknown) => (got.error = error))
  while (got.bytes < 999) await turnOver()
  for (let turn = 0; turn < 20; turn++) await turnOver()
  assert.equal(got.bytes, 999)
  // One that is never read does not keep the file open.
  const unread = spool.read(0, 10)
  spool.break(new Error('wrong bytes'))
  await reading
  assert.match(String(got.error), /wrong bytes/)
  assert.equal(spool.isSound, false)
  await unread[Symbol.asyncDispose]()
  assert.equal(openFiles(directory.path), 0)
})

test('spool: a full disk is told to who appends, and the file is closed', async (context) => {
  using directory = temporaryDirectory()
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'none', directory.path])
  if (mounted.status !== 0) return context.skip('no small file system can be mounted here')
  try {
    const spool = new Spool(join(directory.path, 'one'))
    const fill = async (): Promise<void> => {
      for (let times = 0; times < 3; times++) await spool.append(BYTES)
      await spool.flush()
    }
    await assert.rejects(fill(), { code: 'ENOSPC' })
    spool.break(new Error('full'))
    assert.equal(openFiles(directory.path), 0)
  } finally {
    spawnSync('umount', [directory.path])
  }
})
