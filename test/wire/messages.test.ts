/** Messages: what is valid arrives as it was sent, what is not is refused whole. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Submission } from '../../src/wire/api.ts'
import {
  DATA_BYTES_MAX,
  decodeBatchRequest,
  decodeCasFrame,
  encodeBatchRequest,
  encodeCasMessage,
  encodeData,
  GET_ITEMS_MAX,
  type CasMessage,
  type DataPiece,
} from '../../src/wire/cas-messages.ts'
import { decodeObject, encodeCbor, encodeObject } from '../../src/wire/cbor.ts'
import { sha256 } from '../../src/wire/digest.ts'
import { Fact } from '../../src/wire/facts.ts'
import {
  LEASE_MS,
  HEARTBEAT_MS,
  RUNNING_MAX,
  WorkMessage,
  type Call,
} from '../../src/wire/work-messages.ts'
import { signResult } from '../../src/wire/result.ts'
import { environment, peerOf, requestWire, derivation } from '../scheduler/samples.ts'
import { BUILDER, RESULT } from './samples.ts'

const refused = { code: 'MESH0210' }
const attempt = 'a-23456789abcdefgh'

const sync: WorkMessage = {
  type: 'sync',
  seq: 7,
  ackSeq: 6,
  state: 'ready',
  note: 'ünï',
  environments: [environment({ tools: { m4: null, flex: '1' } })],
  capacity: { cpus: 4, memoryBytes: 2 ** 40, diskBytes: 2 ** 50 },
  running: [{ attempt, phase: 'building', phases: { fetch: 12 } }],
  finished: [
    {
      attempt,
      outcome: { kind: 'built', result: signResult(RESULT, BUILDER) },
      usage: RESULT.usage,
      phases: {},
      bytes: { peer: 1, mirror: 2, local: 3 },
    },
    {
      attempt,
      outcome: { kind: 'cancelled' },
      usage: null,
      phases: {},
      bytes: { peer: 0, mirror: 0, local: 0 },
    },
    {
      attempt,
      outcome: { kind: 'missing', inputs: [sha256('x')], message: 'gone' },
      usage: null,
      phases: {},
      bytes: { peer: 0, mirror: 0, local: 0 },
    },
  ],
}
const calls: Call[] = [
  {
    method: 'submit',
    request: requestWire('r', [
      derivation('a', { sources: ['s'], urls: ['https://a'] }),
      derivation('b', { after: ['a'] }),
    ]),
  },
  { method: 'api', verb: 'GET', path: '/api/status', body: '', user: 'u', hops: 0 },
  {
    method: 'locate',
    refs: [{ digest: sha256('a'), size: 1 }],
    entries: [{ kind: 'dir', digest: sha256('b'), size: 2 }],
    failed: [peerOf('x')],
  },
]

const roundTrip = (message: WorkMessage): WorkMessage =>
  decodeObject(WorkMessage, encodeObject(WorkMessage, message), 'message')

test('work-messages: messages arrive as they were sent', () => {
  assert.deepEqual(roundTrip(sync), sync)
  for (const [id, call] of calls.entries())
    assert.deepEqual(roundTrip({ type: 'call', id, call }), { type: 'call', id, call })
})

test('work-messages: keys that a newer peer adds are dropped, unknown messages refused', () => {
  const value: unknown = { type: 'abort', id: 1, later: true }
  assert.deepEqual(decodeObject(WorkMessage, encodeCbor(value), 'message'), {
    type: 'abort',
    id: 1,
  })
  assert.throws(() => decodeObject(WorkMessage, encodeCbor({ type: 'other' }), 'message'), refused)
})

test('work-messages: lists, numbers and texts beyond their bounds are refused', () => {
  const run = { attempt, phase: 'building', phases: {} }
  for (const changes of [
    { seq: -1 },
    { seq: 1.5 },
    { seq: 2 ** 53 },
    { note: 'x'.repeat(1025) },
    { note: 'a\0' },
    { state: 'lost' },
    { running: Array.from({ length: RUNNING_MAX + 1 }, () => run) },
    { running: [{ ...run, attempt: '../x' }] },
    { capacity: { cpus: Number.MAX_SAFE_INTEGER + 1, memoryBytes: 0, diskBytes: 0 } },
    { environments: [{}] },
  ]) {
    const bytes = encodeCbor({
      type: 'sync',
      seq: 1,
      ackSeq: 1,
      state: 'ready',
      note: '',
      environments: [],
      capacity: { cpus: 1, memoryBytes: 1, diskBytes: 1 },
      running: [],
      finished: [],
      ...changes,
    })
    assert.throws(
      () => decodeObject(WorkMessage, bytes, 'message'),
      refused,
      JSON.stringify(changes).slice(0, 80),
    )
  }
})

test('work-messages: any bytes are a message or refused with a code', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
      assert.throws(() => decodeObject(WorkMessage, bytes, 'message'), refused)
    }),
  )
})

test('work-messages: a lease outlives several heartbeats', () => {
  assert(LEASE_MS >= 4 * HEARTBEAT_MS)
})

test('facts: a request and its graph survive the journal', () => {
  const request = requestWire(
    'r',
    [derivation('a', { sources: ['s'] }), derivation('b', { after: ['a'], tools: ['flex'] })],
    { keepGoing: true },
  )
  const fact: Fact = { type: 'accepted', request }
  assert.deepEqual(decodeObject(Fact, encodeObject(Fact, fact), 'fact'), fact)
})

test('api: a submission needs its graph only', () => {
  const { graph } = requestWire('r', [derivation('a')])
  assert.deepEqual(Submission.parse(JSON.parse(JSON.stringify({ graph }))), {
    graph,
    priority: 50,
    keepGoing: false,
    noWait: false,
    takesCopy: false,
  })
  assert.equal(Submission.safeParse({ graph, priority: 101 }).success, false)
})

// ---- /mesh/cas/1

const messages: CasMessage[] = [
  { type: 'hello', v: 1, features: ['x'] },
  { type: 'have', id: 1, digests: [sha256('a'), sha256('b')] },
  { type: 'haveReply', id: 1, bits: Uint8Array.of(3) },
  { type: 'get', id: 2, items: [{ digest: sha256('a'), size: 10, offset: 5, length: 5 }] },
  { type: 'no', id: 2, items: [0], why: 'absent' },
  { type: 'cancel', id: 2 },
  { type: 'offer', id: 3, refs: [{ digest: sha256('a'), size: 10 }] },
  { type: 'offerReply', id: 3, ok: false, message: 'no room' },
  { type: 'ping', id: 0xffffffff },
  { type: 'pong', id: 0 },
]

test('cas-messages: messages arrive as they were sent', () => {
  for (const message of messages)
    assert.deepEqual(decodeCasFrame(encodeCasMessage(message)), message)
})

test('cas-messages: data arrives as it was sent, as views of the frame', () => {
  const anyPiece: fc.Arbitrary<DataPiece> = fc.record(
    {
      id: fc.nat(0xffffffff),
      item: fc.nat(GET_ITEMS_MAX - 1),
      offset: fc.nat(2 ** 43),
      isLast: fc.boolean(),
      bytes: fc.uint8Array({ maxLength: 40 }),
    },
    { noNullPrototype: true },
  )
  fc.assert(
    fc.property(fc.array(anyPiece, { maxLength: 5 }), (pieces) => {
      const frame = encodeData(pieces)
      const decoded = decodeCasFrame(frame)
      assert(decoded?.type === 'data')
      assert.deepEqual(
        decoded.pieces.map((piece) => ({ ...piece, bytes: Uint8Array.from(piece.bytes) })),
        pieces,
      )
      for (const { bytes } of decoded.pieces) assert.equal(bytes.buffer, frame.buffer)
    }),
  )
  assert(DATA_BYTES_MAX < 2 ** 20)
})

test('cas-messages: frames that are cut off or empty are refused, those of newer peers passed over', () => {
  const data = encodeData([{ id: 1, item: 2, offset: 3, isLast: true, bytes: Buffer.from('abc') }])
  for (let length = 2; length < data.byteLength; length += 1)
    assert.throws(() => decodeCasFrame(data.subarray(0, length)), refused, `${length} bytes`)
  assert.throws(() => decodeCasFrame(new Uint8Array()), refused)
  assert.equal(decodeCasFrame(Uint8Array.of(200, 1, 2)), undefined)
  for (const message of messages) {
    const frame = encodeCasMessage(message)
    assert.throws(() => decodeCasFrame(frame.subarray(0, -1)), refused, message.type)
    assert.throws(() => decodeCasFrame(Buffer.concat([frame, frame])), refused, message.type)
  }
})

test('cas-messages: a batch request survives, and is bounded', () => {
  const digests = [sha256('a'), sha256('b')]
  assert.deepEqual(decodeBatchRequest(encodeBatchRequest(digests)), digests)
  assert.throws(() => decodeBatchRequest(encodeCbor([])), refused)
  assert.throws(
    () =>
      decodeBatchRequest(
        encodeCbor(Array.from({ length: GET_ITEMS_MAX + 1 }, () => new Uint8Array(32))),
      ),
    refused,
  )
})
