/** Jobs with files, in threads and without: the same results, errors and nothing left open. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Chunker } from '../../src/files/fastcdc.ts'
import {
  inlineFileWorkers,
  openFileWorkers,
  runJob,
  type FileWorkers,
} from '../../src/files/workers/file-workers.ts'
import type { TakenFile } from '../../src/files/workers/write-jobs.ts'
import { sha256 } from '../../src/wire/digest.ts'
import { decodeTree } from '../../src/wire/tree.ts'

const log = { warn: () => undefined }
const finish = { mode: 0o444, timeSeconds: 1 }

interface World {
  readonly path: string
  readonly workers: FileWorkers
}

/** The same test with threads and without. */
function withWorkers(what: string, run: (world: World) => Promise<void>): void {
  for (const kind of ['threads', 'inline'] as const)
    test(`files/workers: ${kind}: ${what}`, async () => {
      const path = mkdtempSync(join(tmpdir(), 'mesh-'))
      await using workers = kind === 'inline' ? inlineFileWorkers() : openFileWorkers({ log })
      try {
        await run({ path, workers })
        assert.deepEqual(openBelow(path), [])
      } finally {
        rmSync(path, { recursive: true, force: true })
      }
    })
}

/** Files below `path` that this process has open. */
function openBelow(path: string): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    const target = existsSync(`/proc/self/fd/${fd}`) ? readlinkSync(`/proc/self/fd/${fd}`) : ''
    return target.startsWith(path) ? [target] : []
  })
}

function bytesOf(size: number): Buffer {
  const bytes = Buffer.alloc(size)
  for (let at = 0; at + 4 <= size; at += 4) bytes.writeUInt32LE((at * 2_654_435_761) % 2 ** 32, at)
  return bytes
}

withWorkers('a file has the digest of its bytes', async ({ path, workers }) => {
  for (const size of [0, 1, 65_536, 65_537, 512 * 1024, 1_300_000]) {
    const bytes = bytesOf(size)
    writeFileSync(join(path, 'f'), bytes)
    const { ref } = await runJob(workers, 'hash-file', join(path, 'f'))
    assert.deepEqual(ref, { digest: sha256(bytes), size })
  }
})

withWorkers('errors keep their code and their place', async ({ path, workers }) => {
  symlinkSync('/etc/passwd', join(path, 'link'))
  const cases = [
    ['absent', 'MESH0205'],
    ['link', 'MESH0207'],
    ['.', 'MESH0207'],
  ] as const
  for (const [name, code] of cases) {
    const where = join(path, name)
    await assert.rejects(runJob(workers, 'hash-file', where), { name: 'MeshError', code, where })
  }
  writeFileSync(join(path, 'there'), '')
  const job = workers.start('write-file', { path: join(path, 'there'), ...finish })
  await assert.rejects(job.next(), { code: 'EEXIST' })
})

withWorkers('ranges are hashed as they are, not beyond the end', async ({ path, workers }) => {
  const bytes = bytesOf(1_300_000)
  writeFileSync(join(path, 'f'), bytes)
  const ranges = [
    { offset: 0, length: 0 },
    { offset: 5, length: 600_000 },
    { offset: 1_299_999, length: 1 },
    { offset: 1_299_999, length: 2 },
    { offset: 2 ** 33, length: 1 },
  ]
  const digests = await runJob(workers, 'hash-ranges', { path: join(path, 'f'), ranges })
  const expected = ranges.map(({ offset, length }) =>
    offset + length > bytes.byteLength
      ? undefined
      : sha256(bytes.subarray(offset, offset + length)),
  )
  assert.deepEqual(digests, expected)
})

withWorkers('a file has the chunks of its bytes', async ({ path, workers }) => {
  const bytes = bytesOf(5 * 1024 * 1024 + 17)
  writeFileSync(join(path, 'f'), bytes)
  const chunker = new Chunker()
  chunker.add(bytes)
  assert.deepEqual(await runJob(workers, 'chunk-file', join(path, 'f')), chunker.finish())
})

withWorkers(
  'pieces become a file, with as many sent ahead as wanted',
  async ({ path, workers }) => {
    const bytes = bytesOf(100_000)
    const file = join(path, 'f')
    const job = workers.start('write-file', { path: file, ...finish })
    const steps = [job.next()]
    for (const [at, isLast] of [
      [0, false],
      [1, false],
      [2, true],
    ] as const) {
      const piece = new Uint8Array(bytes.subarray(at * 40_000, (at + 1) * 40_000))
      steps.push(job.next({ buffer: piece.buffer, length: piece.byteLength, isLast }))
    }
    const last = (await Promise.all(steps)).at(-1)
    assert.deepEqual(last, { kind: 'result', result: { digest: sha256(bytes), size: 100_000 } })
    assert.deepEqual(readFileSync(file), bytes)
    assert.deepEqual([statSync(file).mode & 0o777, statSync(file).mtimeMs], [0o444, 1000])
  },
)

withWorkers('a job that is stopped holds nothing', async ({ path, workers }) => {
  const job = workers.start('write-file', { path: join(path, 'f'), ...finish })
  await job.next()
  const piece = job.next({ buffer: new ArrayBuffer(512 * 1024), length: 512 * 1024, isLast: false })
  await Promise.allSettled([job.stop(), piece])
  assert.deepEqual(openBelow(path), [])
  await assert.rejects(job.next(), /ended|stopped/)
  await job.stop()
})

withWorkers('a directory is taken by moving what is only here', async ({ path, workers }) => {
  const root = join(path, 'out')
  mkdirSync(join(root, 'd'), { recursive: true })
  writeFileSync(join(root, 'd/own'), 'own', { mode: 0o755 })
  writeFileSync(join(root, 'd/big'), bytesOf(700_000), { mode: 0o600 })
  writeFileSync(join(path, 'elsewhere'), 'shared')
  linkSync(join(path, 'elsewhere'), join(root, 'shared'))
  symlinkSync('d/own', join(root, 'link'))
  const temporary = join(path, 'tmp')
  const job = workers.start('take-tree', { path: root, temporary, move: true, ...finish })
  const taken: TakenFile[] = []
  let step = await job.next()
  for (; step.kind === 'part'; step = await job.next()) taken.push(...step.part)
  for (const { path: file, ref } of taken) {
    assert.equal(sha256(readFileSync(file)), ref.digest)
    assert.deepEqual([statSync(file).mode & 0o777, statSync(file).mtimeMs], [0o444, 1000])
  }
  const places = new Map(taken.map(({ ref, path: file }) => [ref.digest, file]))
  assert.equal(places.get(sha256('own')), join(root, 'd/own'))
  // Another name is left through which it can be written.
  assert.equal(places.get(sha256('shared')), join(temporary, '1'))
  assert.equal(statSync(join(path, 'elsewhere')).mode & 0o200, 0o200)
  assert(step.result.kind === 'dir')
  const listing = readFileSync(places.get(step.result.digest) ?? '')
  assert.deepEqual(
    decodeTree(listing).map(({ name, entry }) => [name, entry.kind]),
    [
      ['d', 'dir'],
      ['link', 'symlink'],
      ['shared', 'file'],
    ],
  )
})

withWorkers('a full disk is told as such, also in the middle', async ({ path, workers }) => {
  const disk = join(path, 'disk')
  mkdirSync(disk)
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'none', disk])
  if (mounted.status !== 0) return // needs root
  try {
    const job = workers.start('write-file', { path: join(disk, 'f'), ...finish })
    await job.next()
    const write = async (): Promise<never> => {
      for (;;) await job.next({ buffer: new ArrayBuffer(400_000), length: 400_000, isLast: false })
    }
    await assert.rejects(write(), { code: 'ENOSPC' })
    writeFileSync(join(path, 'f'), bytesOf(1_500_000))
    const options = { path: join(path, 'f'), temporary: join(disk, 'g'), move: false, ...finish }
    await assert.rejects(runJob(workers, 'take-file', options), { code: 'ENOSPC' })
    assert.equal(existsSync(join(disk, 'g')), false)
  } finally {
    spawnSync('umount', ['-l', disk])
  }
})

withWorkers('directories are removed whatever is in them', async ({ path, workers }) => {
  const top = join(path, 'top')
  mkdirSync(join(top, ...Array.from({ length: 40 }, () => 'deep')), { recursive: true })
  for (let at = 0; at < 200; at++) writeFileSync(join(top, `f${at}`), '')
  await runJob(workers, 'remove-tree', top)
  await runJob(workers, 'remove-tree', top)
  assert.equal(existsSync(top), false)
})

test('files/workers: a long job lets others have their turn', async () => {
  const path = mkdtempSync(join(tmpdir(), 'mesh-'))
  await using workers = openFileWorkers({ log }, { threads: 1 })
  try {
    writeFileSync(join(path, 'long'), '')
    truncateSync(join(path, 'long'), 256 * 1024 ** 2)
    writeFileSync(join(path, 'short'), 'short')
    const ended: string[] = []
    await Promise.all(
      ['long', 'short'].map(async (name) => {
        await runJob(workers, 'hash-file', join(path, name))
        ended.push(name)
      }),
    )
    assert.deepEqual(ended, ['short', 'long'])
  } finally {
    rmSync(path, { recursive: true })
  }
})

test('files/workers: when a thread dies its jobs fail, and the next job has another', async () => {
  const warnings: string[] = []
  const program = join(import.meta.dirname, 'dying-worker.ts')
  await using workers = openFileWorkers(
    { log: { warn: (_, message) => warnings.push(message) } },
    { threads: 1, program },
  )
  const endless = { path: '/dev/zero', ranges: [{ offset: 0, length: 2 ** 50 }] }
  await assert.rejects(runJob(workers, 'hash-ranges', endless), { code: 'MESH0505' })
  assert.deepEqual(warnings, ['a thread for files ended'])
  await runJob(workers, 'hash-file', program)
})

test('files/workers: one job too many is refused, and there is room after one', async () => {
  await using workers = openFileWorkers({ log }, { jobsMax: 1 })
  const first = runJob(workers, 'hash-file', import.meta.filename)
  await assert.rejects(runJob(workers, 'hash-file', import.meta.filename), { code: 'MESH0505' })
  await first
  await runJob(workers, 'hash-file', import.meta.filename)
})

test('files/workers: the end of all fails what is under way', async () => {
  const workers = openFileWorkers({ log })
  const job = runJob(workers, 'hash-file', import.meta.filename)
  await Promise.all([assert.rejects(job, { code: 'MESH0505' }), workers[Symbol.asyncDispose]()])
  await assert.rejects(runJob(workers, 'hash-file', import.meta.filename), { code: 'MESH0108' })
})

test('files/workers: idle threads keep no process alive', () => {
  const module = join(import.meta.dirname, '../../src/files/workers/file-workers.ts')
  const program = `
    const { openFileWorkers, runJob } = await import(${JSON.stringify(module)})
    const workers = openFileWorkers({ log: console })
    console.log((await runJob(workers, 'hash-file', ${JSON.stringify(module)})).ref.digest)`
  const child = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
    timeout: 60_000,
  })
  assert.deepEqual(
    [child.signal, child.stdout],
    [null, `${sha256(readFileSync(module))}\n`],
    child.stderr,
  )
})
