/** What a node keeps of its attempts: for how long, how much, and through restarts. */
import assert from 'node:assert/strict'
import { appendFile, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test as nodeTest, type TestContext } from 'node:test'
import {
  AttemptRecords,
  type AttemptRecord,
  type Holder,
  type RecordsOptions,
} from '../../src/build/attempt-records.ts'
import { sha256, type Digest } from '../../src/wire/digest.ts'
import { ManualClock } from '../node/manual-clock.ts'

const DAY_MS = 24 * 3600 * 1000

/** What the store is asked to hold. */
class Held implements Holder {
  readonly digests = new Set<Digest>()
  change(_holder: string, { add, remove }: Parameters<Holder['change']>[1]): boolean {
    for (const { digest } of add) this.digests.add(digest)
    for (const digest of remove) assert(this.digests.delete(digest), 'it was not held')
    return true
  }
}

let directory: string
let clock: ManualClock
let held: Held
let warnings: number

/** Each with a directory of its own. Hooks of the file would be those of all files that run in one process. */
function test(name: string, body: (context: TestContext) => Promise<void>): void {
  void nodeTest(name, async (context) => {
    directory = await mkdtemp(join(tmpdir(), 'mesh-records-'))
    clock = new ManualClock()
    held = new Held()
    warnings = 0
    try {
      await body(context)
    } finally {
      await rm(directory, { recursive: true })
    }
  })
}

function open(options: Partial<RecordsOptions> = {}): Promise<AttemptRecords> {
  return AttemptRecords.open(
    { clock, log: { warn: () => (warnings += 1) }, leases: held },
    {
      path: join(directory, 'attempts.ndjson'),
      keepMs: 14 * DAY_MS,
      keepBytes: 1_000_000,
      ...options,
    },
  )
}

function recordOf(
  n: number,
  {
    sizeBytes = 100,
    content = `${n}`,
    kept = null,
  }: {
    readonly sizeBytes?: number
    readonly content?: string
    readonly kept?: AttemptRecord['kept']
  } = {},
): AttemptRecord {
  return {
    v: 1,
    attempt: `a-${String(n).padStart(8, '0')}`,
    job: 'j-abcdefgh',
    name: 'hello',
    system: 'x86_64-linux',
    isolation: 'host',
    endedAtWall: clock.wallMs(),
    end: 'failed',
    lastLine: 'failed: exit 1 (MESH0401)',
    log: { digest: sha256(Buffer.from(content)), size: sizeBytes },
    kept,
  }
}

test('attempt-records: a log is held for its time, and then it is known why it went', async () => {
  const records = await open()
  const record = recordOf(1)
  records.add(record)
  clock.step(14 * DAY_MS - 1)
  assert.deepEqual(records.find(record.attempt), record)
  assert.deepEqual([...held.digests], [record.log.digest])
  clock.step(1)
  assert.equal(records.find(record.attempt), undefined)
  assert.deepEqual([...held.digests], [])
  assert.match(records.whyGone(record.attempt) ?? '', /kept for .*\(store\.keep-logs\)/)
  assert.equal(records.whyGone('a-unknown1'), undefined)
  await records.flush()
})

test('attempt-records: the oldest go first when there are too many bytes', async () => {
  const records = await open({ keepBytes: 1_000 })
  const all = [1, 2, 3, 4].map((n) => recordOf(n, { sizeBytes: 300 }))
  for (const record of all) records.add(record)
  assert.deepEqual(
    all.map(({ attempt }) => records.find(attempt) !== undefined),
    [false, true, true, true],
  )
  assert.match(records.whyGone(all[0]?.attempt ?? '') ?? '', /store\.keep-logs-size/)
  assert.deepEqual(records.stats(), { count: 3, bytes: 900 })
  records.giveWay()
  assert.equal(records.stats().bytes, 300)
  await records.flush()
})

test('attempt-records: one blob of two attempts is held until both are gone', async () => {
  const records = await open()
  records.add(recordOf(1, { content: 'same' }))
  clock.step(DAY_MS)
  const second = recordOf(2, { content: 'same' })
  records.add(second)
  clock.step(13 * DAY_MS)
  records.sweep()
  assert.deepEqual([...held.digests], [second.log.digest])
  clock.step(DAY_MS)
  records.sweep()
  assert.deepEqual([...held.digests], [])
  await records.flush()
})

test('attempt-records: a restart forgets nothing, but for a line that was torn', async () => {
  const before = await open()
  const kept = { digest: sha256(Buffer.from('tree')), size: 10, treeBytes: 5_000 }
  const first = recordOf(1, { kept })
  const second = recordOf(2)
  before.add(first)
  before.add(second)
  await before.flush()
  const path = join(directory, 'attempts.ndjson')
  await appendFile(path, JSON.stringify(recordOf(3)).slice(0, 40))
  held = new Held()
  const after = await open()
  assert.deepEqual(after.find(first.attempt), first)
  assert.deepEqual(after.find(second.attempt), second)
  assert.deepEqual([...after.kept()], [kept])
  assert.equal(held.digests.size, 3)
  assert.equal(warnings, 1)
  after.add(recordOf(4))
  await after.flush()
  const third = await open()
  assert.equal(third.stats().count, 3)
  assert.equal(warnings, 1, 'what was torn was mended')
})

test('attempt-records: the file does not grow for ever', async () => {
  const records = await open({ keepBytes: 1_000 })
  for (let n = 1; n <= 5_000; n++) records.add(recordOf(n, { sizeBytes: 100 }))
  await records.flush()
  const lines = (await readFile(join(directory, 'attempts.ndjson'), 'utf8')).split('\n').length
  assert(lines < 1_200, `${lines} lines for ${records.stats().count} records`)
  assert.deepEqual((await open({ keepBytes: 1_000 })).stats(), records.stats())
})
