/** Parts of logs: the right lines, whatever pieces the log came in, and safe against hostile expressions. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { systemClock } from '../../../src/base/clock.ts'
import { LineSearches } from '../../../src/node/logs/line-search.ts'
import { viewedLog, type ViewDeps } from '../../../src/node/logs/viewed-log.ts'
import {
  encodeLogRecord,
  LogDecoder,
  type LogRecord,
  type LogStream,
} from '../../../src/wire/log-record.ts'
import type { LogView } from '../../../src/wire/log-view.ts'

const clock = systemClock()
const searches = new LineSearches({ clock })
const deps = { searches, nowMs: () => clock.nowMs() }

/** Searches here, for expressions that are known to be harmless. */
const here: ViewDeps = {
  nowMs: () => 0,
  searches: {
    async open({ source, flags }) {
      const pattern = new RegExp(source, flags)
      return {
        match: async (lines) =>
          lines.map((bytes) => pattern.test(Buffer.from(bytes).toString().replace(/\n$/, ''))),
        async [Symbol.asyncDispose]() {
          // There is no thread.
        },
      }
    },
  },
}

const record = (stream: LogStream, text: string, atMs = 0): LogRecord => ({
  stream,
  atMs,
  bytes: Buffer.from(text),
})

const encoded = (records: readonly LogRecord[]): Buffer =>
  Buffer.concat(records.map(encodeLogRecord))

async function* cut(bytes: Uint8Array, pieceBytes: number): AsyncIterable<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += pieceBytes)
    yield bytes.subarray(at, at + pieceBytes)
}

interface Seen {
  readonly records: readonly string[]
  readonly position: number | undefined
}

async function see(
  log: Uint8Array,
  view: LogView,
  {
    pieceBytes = 64 * 1024,
    offsetBytes = 0,
    sizeBytes = log.byteLength,
    use = deps,
  }: {
    pieceBytes?: number
    offsetBytes?: number
    sizeBytes?: number
    use?: ViewDeps
  } = {},
): Promise<Seen> {
  const decoder = new LogDecoder()
  const records: string[] = []
  const source = cut(log.subarray(offsetBytes), pieceBytes)
  for await (const piece of viewedLog(use, source, { view, offsetBytes, sizeBytes })) {
    assert(piece.byteLength <= 128 * 1024)
    for (const { stream, bytes } of decoder.push(piece))
      records.push(`${stream}: ${Buffer.from(bytes).toString()}`)
  }
  assert.equal(decoder.pendingBytes, 0)
  return { records, position: decoder.position }
}

const LOG = encoded([
  record('stdout', 'one\ntw', 0),
  record('stderr', 'warn', 10),
  record('stdout', 'o\n\x1b[31mthr\x1b[0mee\n', 20),
  record('stderr', 'ing\n', 30),
  record('stdout', 'no end', 40),
  record('mesh', 'failed: exit 1 (MESH0401)\n', 50),
])

test('viewed-log: streams and times', async () => {
  assert.deepEqual((await see(LOG, { streams: ['stderr'] })).records, [
    'stderr: warn',
    'stderr: ing\n',
  ])
  assert.deepEqual((await see(LOG, { sinceMs: 40 })).records, [
    'stdout: no end',
    'mesh: failed: exit 1 (MESH0401)\n',
  ])
  assert.deepEqual((await see(LOG, { streams: ['mesh'], sinceMs: 51 })).records, [])
})

test('viewed-log: an expression finds whole lines, through pieces and colours', async () => {
  for (const pieceBytes of [1, 7, 64 * 1024]) {
    const options = { pieceBytes }
    assert.deepEqual((await see(LOG, { grep: '^two$' }, options)).records, ['stdout: two\n'])
    assert.deepEqual((await see(LOG, { grep: 'warning' }, options)).records, ['stderr: warning\n'])
    assert.deepEqual((await see(LOG, { grep: '^three$' }, options)).records, [
      'stdout: \x1b[31mthr\x1b[0mee\n',
    ])
    assert.deepEqual((await see(LOG, { grep: 'NO END', ignoreCase: true }, options)).records, [
      'stdout: no end',
    ])
    assert.deepEqual((await see(LOG, { grep: 'nothing' }, options)).records, [])
  }
})

test('viewed-log: the last lines, of all or of what is found', async () => {
  for (const pieceBytes of [1, 64 * 1024]) {
    assert.deepEqual((await see(LOG, { tail: 2 }, { pieceBytes })).records, [
      'stdout: no end',
      'mesh: failed: exit 1 (MESH0401)\n',
    ])
    assert.deepEqual((await see(LOG, { tail: 1, grep: '^no|^tw' }, { pieceBytes })).records, [
      'stdout: no end',
    ])
  }
  assert.equal((await see(LOG, { tail: 100_000 })).records.length, 6)
})

test('viewed-log: after the last lines all follows that comes', async () => {
  const first = encoded([record('stdout', 'a\nb\nc\nd')])
  const log = Buffer.concat([first, encoded([record('stdout', 'e\nf\n'), record('stderr', 'g')])])
  for (const pieceBytes of [1, 5, 64 * 1024]) {
    const { records, position } = await see(
      log,
      { tail: 2 },
      { pieceBytes, sizeBytes: first.byteLength },
    )
    assert.equal(records.join('|'), 'stdout: c\n|stdout: d|stdout: e\nf\n|stderr: g')
    assert.equal(position, log.byteLength)
  }
})

test('viewed-log: an expression that backtracks for ever costs a second, not the node', async () => {
  const log = encoded([record('stdout', 'fine a\n'), record('stdout', `${'a'.repeat(60)}!\n`)])
  let turns = 0
  const ticking = setInterval(() => (turns += 1), 5)
  const startedMs = performance.now()
  const { records } = await see(log, { grep: '^(a+)+$|fine' })
  clearInterval(ticking)
  assert(performance.now() - startedMs < 15_000)
  assert(turns > 20, `the event loop turned ${turns} times`)
  assert.match(
    records.at(-1) ?? '',
    /^mesh: the search stopped, .* takes too long .* go on with --offset \d+/,
  )
})

test('viewed-log: a search that finds too much says where to go on', async () => {
  const many = record('stdout', 'x\n'.repeat(30_000))
  const log = encoded(Array.from({ length: 6 }, () => many))
  const first = await see(log, { grep: 'x' })
  assert(first.records.length > 100_000 && first.records.length < 180_000)
  const offsetBytes = Number(/--offset (\d+)/.exec(first.records.at(-1) ?? '')?.[1])
  const second = await see(log, { grep: 'x' }, { offsetBytes })
  assert(second.records.every((line) => line === 'stdout: x\n'))
  assert(first.records.length - 1 + second.records.length >= 180_000)
})

test('viewed-log: more searches than threads wait for their turn, too many are refused', async () => {
  const few = new LineSearches({ clock })
  const open = await Promise.all([1, 2, 3, 4].map(() => few.open({ source: 'x', flags: '' })))
  const waiting = Array.from({ length: 32 }, () => few.open({ source: 'x', flags: '' }))
  await assert.rejects(few.open({ source: 'x', flags: '' }), { code: 'MESH0211' })
  for (const search of open) await search[Symbol.asyncDispose]()
  for (const next of waiting) await (await next)[Symbol.asyncDispose]()
})

test('viewed-log: who begins anew at a position and leaves out what came after it misses nothing', async () => {
  const texts = fc.array(
    fc.tuple(
      fc.constantFrom<LogStream>('stdout', 'stderr'),
      fc.stringMatching(/^[ab\n]{1,12}$/),
      fc.integer({ min: 0, max: 9 }),
    ),
    { minLength: 1, maxLength: 30 },
  )
  const views = fc.constantFrom<LogView>(
    { streams: ['stderr'] },
    { sinceMs: 5 },
    { grep: 'a' },
    { grep: '^b', streams: ['stdout'] },
  )
  await fc.assert(
    fc.asyncProperty(
      texts,
      views,
      fc.integer({ min: 1, max: 50 }),
      fc.nat(),
      async (pieces, view, pieceBytes, cutSeed) => {
        const log = encoded(pieces.map(([stream, text, atMs]) => record(stream, text, atMs)))
        const whole = await see(log, view, { pieceBytes, use: here })
        // A reader that loses the connection after some pieces.
        const decoder = new LogDecoder()
        const shown: string[] = []
        let left = cutSeed % 10
        const source = cut(log, pieceBytes)
        const options = { view, offsetBytes: 0, sizeBytes: log.byteLength }
        for await (const piece of viewedLog(here, source, options)) {
          for (const { stream, bytes } of decoder.push(piece))
            shown.push(`${stream}: ${Buffer.from(bytes).toString()}`)
          if (left-- === 0) break
        }
        const offsetBytes = decoder.position ?? 0
        const rest = await see(log, view, { pieceBytes: 64, offsetBytes, use: here })
        assert.deepEqual([...shown, ...rest.records.slice(decoder.since)], whole.records)
      },
    ),
    { numRuns: 300 },
  )
})
