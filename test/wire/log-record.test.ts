/** Log records come whole out of pieces of any length. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  encodeLogRecord,
  LOG_RECORD_BYTES_MAX,
  LOG_RECORD_HEAD_BYTES,
  LogDecoder,
  type LogRecord,
} from '../../src/wire/log-record.ts'

const anyRecord: fc.Arbitrary<LogRecord> = fc.record({
  stream: fc.constantFrom('stdout', 'stderr', 'mesh'),
  atMs: fc.nat(0xffffffff),
  bytes: fc.uint8Array({ maxLength: 50 }),
})
const plain = (records: readonly LogRecord[]): unknown[] =>
  records.map(({ stream, atMs, bytes }) => [stream, atMs, [...bytes]])

test('log-record: records come out as they went in, however the bytes are cut', () => {
  fc.assert(
    fc.property(
      fc.array(anyRecord, { maxLength: 8 }),
      fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1 }),
      (records, cuts) => {
        const bytes = Buffer.concat(records.map(encodeLogRecord))
        const decoder = new LogDecoder()
        const read: LogRecord[] = []
        for (let at = 0, turn = 0; at < bytes.byteLength; turn += 1) {
          const end = at + (cuts[turn % cuts.length] ?? 1)
          read.push(...decoder.push(bytes.subarray(at, end)))
          at = end
        }
        assert.deepEqual(plain(read), plain(records))
        assert.equal(decoder.pendingBytes, 0)
      },
    ),
  )
})

test('log-record: its form is fixed', () => {
  const bytes = encodeLogRecord({ stream: 'stderr', atMs: 258, bytes: Buffer.from('hi') })
  assert.equal(Buffer.from(bytes).toString('hex'), '0200000102000000026869')
})

test('log-record: a record that is cut off stays pending', () => {
  const bytes = encodeLogRecord({ stream: 'stdout', atMs: 1, bytes: Buffer.from('abc') })
  const decoder = new LogDecoder()
  assert.deepEqual(decoder.push(bytes.subarray(0, -1)), [])
  assert.equal(decoder.pendingBytes, LOG_RECORD_HEAD_BYTES + 2)
  assert.equal(decoder.push(bytes.subarray(-1)).length, 1)
})

test('log-record: a malformed head is refused before its bytes are waited for', () => {
  for (const hex of [
    '000000000000000000',
    '040000000000000000',
    'ff0000000000000000',
    '0100000000ffffffff',
  ])
    assert.throws(() => new LogDecoder().push(Buffer.from(hex, 'hex')), RangeError, hex)
  const head = Buffer.alloc(LOG_RECORD_HEAD_BYTES)
  head.writeUInt8(1, 0)
  head.writeUInt32BE(LOG_RECORD_BYTES_MAX, 5)
  assert.deepEqual(new LogDecoder().push(head), [])
})

test('log-record: a decoder keeps no hold on the buffers that it was given', () => {
  const bytes = encodeLogRecord({ stream: 'stdout', atMs: 0, bytes: Buffer.from('abc') })
  const decoder = new LogDecoder()
  const piece = Buffer.from(bytes)
  const [record] = decoder.push(piece)
  piece.fill(0)
  assert.equal(Buffer.from(record?.bytes ?? []).toString(), 'abc')
})
