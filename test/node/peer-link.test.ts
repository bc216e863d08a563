/** `/mesh/work/1` over channels in memory with a stepped clock, and over libp2p where the transport matters. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from 'zod'
import { MeshError } from '../../src/base/errors.ts'
import { openPeerLink, type LinkHandlers, type PeerLink } from '../../src/node/links/peer-link.ts'
import { decodeObject, encodeCbor, encodeObject } from '../../src/wire/cbor.ts'
import { WORK_FRAME_BYTES_MAX, type FrameChannel } from '../../src/wire/frame-channel.ts'
import {
  ApiAnswer,
  WorkMessage,
  type Call,
  type DesiredMessage,
  type HelloMessage,
  type SyncMessage,
} from '../../src/wire/work-messages.ts'
import { log, StepClock, turnOver } from '../store/support.ts'
import { memoryChannels } from '../support/memory-channel.ts'
import { hello, host, never, PROTOCOL, until } from './hosts.ts'

/** Two valid peer ids. */
const CHILD = `12D3KooW${'A'.repeat(44)}`
const PARENT = `12D3KooW${'B'.repeat(44)}`

const EVENTS: Call = { method: 'events', request: 'r-aaaaaa', hops: 0 }
const REFUSE: LinkHandlers = {
  onCall: () => Promise.reject(new MeshError('MESH0603', 'not here', { hints: ['elsewhere'] })),
}

interface Ends {
  readonly clock: StepClock
  readonly child: PeerLink
  readonly parent: PeerLink
  readonly channels: [FrameChannel, FrameChannel]
}

async function links(options: { child?: LinkHandlers; parent?: LinkHandlers } = {}): Promise<Ends> {
  const clock = new StepClock()
  const channels = memoryChannels({ remotePeers: [PARENT, CHILD] })
  const [child, parent] = await Promise.all([
    openPeerLink(
      { channel: channels[0], clock, log },
      { hello: hello(CHILD, 'child'), handlers: () => options.child ?? REFUSE, signal: never },
    ),
    openPeerLink(
      { channel: channels[1], clock, log },
      { hello: hello(PARENT, 'parent'), handlers: () => options.parent ?? REFUSE, signal: never },
    ),
  ])
  return { clock, child, parent, channels }
}

/** A link whose other end is the bare channel. */
async function halfLink(
  handlers: LinkHandlers = REFUSE,
): Promise<{ link: PeerLink; peer: FrameChannel; clock: StepClock }> {
  const clock = new StepClock()
  const [channel, peer] = memoryChannels({ remotePeers: [PARENT, CHILD] })
  await peer.send(encodeObject(WorkMessage, hello(PARENT, 'parent')))
  const link = await openPeerLink(
    { channel, clock, log },
    { hello: hello(CHILD, 'child'), handlers: () => handlers, signal: never },
  )
  await peer.receive()
  return { link, peer, clock }
}

async function receive(channel: FrameChannel): Promise<WorkMessage> {
  return decodeObject(WorkMessage, (await channel.receive()) ?? new Uint8Array(), 'message')
}

function post(channel: FrameChannel, message: WorkMessage): Promise<void> {
  return channel.send(encodeObject(WorkMessage, message))
}

function sync(seq: number): SyncMessage {
  return {
    type: 'sync',
    seq,
    ackSeq: 0,
    state: 'ready',
    note: '',
    environments: [],
    capacity: { cpus: 1, memoryBytes: 1, diskBytes: 1 },
    running: [],
    finished: [],
  }
}

function desired(seq: number): DesiredMessage {
  return {
    type: 'desired',
    seq,
    ackSeq: 0,
    epoch: 1,
    grants: [],
    limits: [],
    cancel: [],
    ack: [],
    tools: [],
  }
}

const answer = (body: string): Uint8Array<ArrayBuffer> =>
  encodeObject(ApiAnswer, { status: 200, body })

async function failure(promise: Promise<unknown>): Promise<MeshError> {
  try {
    await promise
  } catch (error) {
    assert(error instanceof MeshError, String(error))
    return error
  }
  return assert.fail('it did not fail')
}

test('peer-link: both ends know what the other said first', async () => {
  const { child, parent } = await links()
  assert.equal(child.peerId, PARENT)
  assert.equal(child.remote.record.name, 'parent')
  assert.equal(parent.remote.record.name, 'child')
  child.close('enough')
  child.close('again')
  assert.equal(await child.closed, 'enough')
  assert.equal(await parent.closed, 'the peer hung up')
})

test('peer-link: versions that do not overlap are told on both sides, over real streams', async () => {
  await using listener = await host(21)
  await using dialer = await host(22, { listen: [] })
  const open = { frameBytesMax: WORK_FRAME_BYTES_MAX, signal: never }
  const refused = Promise.withResolvers<MeshError>()
  const clock = new StepClock()
  await listener.handle(
    PROTOCOL,
    { frameBytesMax: WORK_FRAME_BYTES_MAX, streamsMax: 4 },
    (channel) => {
      const own = hello(listener.peerId, 'old', { min: 1, max: 2 })
      failure(
        openPeerLink(
          { channel, clock, log },
          { hello: own, handlers: () => REFUSE, signal: never },
        ),
      ).then(refused.resolve)
    },
  )
  const channel = await dialer.open({ addresses: listener.listenAddresses() }, PROTOCOL, open)
  const own = hello(dialer.peerId, 'new', { min: 3, max: 4 })
  const ours = await failure(
    openPeerLink({ channel, clock, log }, { hello: own, handlers: () => REFUSE, signal: never }),
  )
  const theirs = await refused.promise
  assert.deepEqual([ours.code, theirs.code], ['MESH0121', 'MESH0121'])
  assert.equal(ours.message, 'old (0.1.0) speaks protocol 1-2, this node (0.1.0) speaks 3-4')
  assert.equal(theirs.message, 'new (0.1.0) speaks protocol 3-4, this node (0.1.0) speaks 1-2')
  assert.deepEqual([ours.hints, theirs.hints], [['upgrade old'], ['upgrade this node']])
})

test('peer-link: a hello of another version is understood even if the rest of it is not', async () => {
  const [channel, peer] = memoryChannels({ remotePeers: [PARENT, CHILD] })
  await peer.send(
    encodeCbor({
      type: 'hello',
      versions: { min: 7, max: 9 },
      mesh: '9.0',
      record: { name: 'future', is: 'other' },
    }),
  )
  const error = await failure(
    openPeerLink(
      { channel, clock: new StepClock(), log },
      { hello: hello(CHILD, 'child'), handlers: () => REFUSE, signal: never },
    ),
  )
  assert.equal(error.message, 'future (9.0) speaks protocol 7-9, this node (0.1.0) speaks 1-1')
  assert.equal((await receive(peer)).type, 'hello')
})

const OTHER = `12D3KooW${'C'.repeat(44)}`
const FIRST_FRAMES: readonly (readonly [string, Uint8Array, string, RegExp])[] = [
  [
    'one that is not who it says',
    encodeObject(WorkMessage, hello(OTHER, 'liar')),
    'MESH0123',
    /says that it is 12D3KooWCCC/,
  ],
  [
    'one that begins with a sync',
    encodeObject(WorkMessage, sync(1)),
    'MESH0210',
    /hello of 12D3KooWBBB/,
  ],
  ['one that sends noise', Buffer.from('GET / HTTP/1.1\r\n'), 'MESH0210', /not dag-cbor/],
]
for (const [what, frame, code, message] of FIRST_FRAMES) {
  test(`peer-link: no link with ${what}`, async () => {
    const [channel, peer] = memoryChannels({ remotePeers: [PARENT, CHILD] })
    await peer.send(frame)
    const error = await failure(
      openPeerLink(
        { channel, clock: new StepClock(), log },
        { hello: hello(CHILD, 'child'), handlers: () => REFUSE, signal: never },
      ),
    )
    assert.equal(error.code, code)
    assert.match(error.message, message)
    await peer.closed
  })
}

test('peer-link: a peer that hangs up before its hello refuses this node', async () => {
  const [channel, peer] = memoryChannels({ remotePeers: [PARENT, CHILD] })
  peer.close()
  const error = await failure(
    openPeerLink(
      { channel, clock: new StepClock(), log },
      { hello: hello(CHILD, 'child'), handlers: () => REFUSE, signal: never },
    ),
  )
  assert.equal(error.code, 'MESH0123')
  assert(error.message.includes(CHILD) && error.message.includes(PARENT), error.message)
})

test('peer-link: a peer that never says hello is given up after 10 s, and an abort ends the wait', async () => {
  const clock = new StepClock()
  const [channel, peer] = memoryChannels()
  const opening = failure(
    openPeerLink(
      { channel, clock, log },
      { hello: hello(CHILD, 'child'), handlers: () => REFUSE, signal: never },
    ),
  )
  clock.step(9_999)
  await turnOver()
  clock.step(1)
  assert.match((await opening).message, /did not say hello within 10 s/)
  await peer.closed
  const stop = new AbortController()
  const [second, other] = memoryChannels()
  const aborted = openPeerLink(
    { channel: second, clock, log },
    { hello: hello(CHILD, 'child'), handlers: () => REFUSE, signal: stop.signal },
  )
  stop.abort(new Error('never mind'))
  await assert.rejects(aborted, /never mind/)
  await other.closed
})

test('peer-link: of the states asked for in one tick the last one is made, once', async () => {
  const got: string[] = []
  const { child, parent } = await links({
    parent: { ...REFUSE, onSync: ({ seq }) => got.push(`sync ${seq}`) },
    child: { ...REFUSE, onDesired: ({ seq }) => got.push(`desired ${seq}`) },
  })
  let made = 0
  for (let seq = 1; seq <= 100; seq++)
    child.requestSync(() => {
      made += 1
      return sync(seq)
    })
  parent.requestDesired(() => undefined)
  await until(() => got.length === 1)
  parent.requestDesired(() => desired(7))
  await until(() => got.length === 2)
  assert.deepEqual(got, ['sync 100', 'desired 7'])
  assert.equal(made, 1)
})

test('peer-link: while the peer does not read, states are neither made nor queued', async () => {
  const { link, peer } = await halfLink()
  let made = 0
  const big = 'x'.repeat(1000)
  const make = (): SyncMessage => {
    made += 1
    return { ...sync(made), note: big, environments: [] }
  }
  for (let round = 0; round < 500; round++) {
    link.requestSync(make)
    await turnOver()
  }
  assert(made < 100, `${made} syncs were made for a peer that reads none`)
  const blockedAt = made
  for (let seq = 1; seq <= blockedAt + 1; seq++) {
    const message = await receive(peer)
    assert(message.type === 'sync' && message.seq === seq)
  }
  assert.equal(made, blockedAt + 1)
  link.close('done')
})

test('peer-link: a call gets its answer, errors come with code, text and hints', async () => {
  const calls: string[] = []
  const { child, parent } = await links({
    parent: {
      onCall: async (call, { peerId }) => {
        calls.push(`${call.method} from ${peerId}`)
        if (call.method === 'events') throw new Error('a bug\0')
        return answer(call.method)
      },
    },
  })
  const call: Call = { method: 'api', verb: 'GET', path: '/api/jobs', body: '', user: 'u', hops: 0 }
  const answers = await Promise.all(
    Array.from({ length: 50 }, () => child.call(call, ApiAnswer, { signal: never })),
  )
  assert(answers.every(({ body }) => body === 'api'))
  assert.equal(calls[0], `api from ${CHILD}`)
  const refused = await failure(parent.call(call, ApiAnswer, { signal: never }))
  assert.deepEqual(
    [refused.code, refused.message, refused.hints],
    ['MESH0603', 'not here', ['elsewhere']],
  )
  const bug = await failure(child.call(EVENTS, ApiAnswer, { signal: never }))
  assert.deepEqual([bug.code, bug.message], ['MESH0001', 'a bug\u{fffd}'])
  const wrong = await failure(child.call(call, z.object({ other: z.string() }), { signal: never }))
  assert.equal(wrong.code, 'MESH0210')
})

test('peer-link: the unknown code of a newer peer is shown as it came', async () => {
  const { link, peer } = await halfLink()
  const calling = failure(link.call(EVENTS, ApiAnswer, { signal: never }))
  const call = await receive(peer)
  assert(call.type === 'call')
  await post(peer, {
    type: 'answer',
    id: call.id,
    body: null,
    error: { code: 'MESH0999', message: 'too green', hints: ['wait'] },
    done: true,
  })
  const error = await calling
  assert.deepEqual(
    [error.code, error.message, error.hints],
    ['MESH0505', 'MESH0999: too green', ['wait']],
  )
})

test('peer-link: a stream of answers is complete, and its end is told', async () => {
  const { child } = await links({
    parent: {
      async *onCall() {
        for (let count = 0; count < 300; count++) yield answer(String(count))
      },
    },
  })
  const bodies: string[] = []
  for await (const { body } of child.stream(EVENTS, ApiAnswer, { signal: never })) bodies.push(body)
  assert.deepEqual(
    bodies,
    Array.from({ length: 300 }, (_, count) => String(count)),
  )
})

test('peer-link: a stream that fails gives what it had, then the error', async () => {
  const { child } = await links({
    parent: {
      async *onCall() {
        yield answer('one')
        throw new MeshError('MESH0601', 'gone')
      },
    },
  })
  const stream = child.stream(EVENTS, ApiAnswer, { signal: never })[Symbol.asyncIterator]()
  assert.equal((await stream.next()).value.body, 'one')
  assert.equal((await failure(stream.next())).code, 'MESH0601')
})

test('peer-link: the answerer waits for the channel, and stops when the caller leaves or aborts', async () => {
  let yielded = 0
  const ended: string[] = []
  const handlers: LinkHandlers = {
    async *onCall(_, { signal }) {
      signal.addEventListener('abort', () => ended.push(String(signal.reason)))
      for (;;) {
        yielded += 1
        yield answer('x'.repeat(10_000))
      }
    },
  }
  const { link, peer } = await halfLink(handlers)
  await post(peer, { type: 'call', id: 1, call: EVENTS })
  for (let turns = 0; turns < 200; turns++) await turnOver()
  assert(yielded > 0 && yielded < 50, `${yielded} answers were made for a peer that reads none`)
  await post(peer, { type: 'abort', id: 1 })
  await until(() => ended.length === 1)
  assert.match(ended[0] ?? '', /the caller gave up/)
  link.close('done')

  const pair = await links({ parent: handlers })
  for await (const { body } of pair.child.stream(EVENTS, ApiAnswer, { signal: never }))
    if (body !== '') break
  await until(() => ended.length === 2)
  const stop = new AbortController()
  await assert.rejects(async () => {
    for await (const { body } of pair.child.stream(EVENTS, ApiAnswer, { signal: stop.signal }))
      if (body !== '') stop.abort(new Error('never mind'))
  }, /never mind/)
  await until(() => ended.length === 3)
  pair.child.close('done')
})

test('peer-link: a caller that does not read its answers loses that call, not the link', async () => {
  const { child } = await links({
    parent: {
      async *onCall() {
        for (let count = 0; count < 5000; count++) yield answer('')
      },
    },
  })
  const stream = child.stream(EVENTS, ApiAnswer, { signal: never })[Symbol.asyncIterator]()
  await stream.next()
  for (let turns = 0; turns < 2000; turns++) await turnOver()
  const error = await failure(stream.next())
  assert.equal(error.code, 'MESH0505')
  assert.match(error.message, /read too slowly/)
  assert.equal((await child.call(EVENTS, ApiAnswer, { signal: never })).body, '')
})

test('peer-link: calls under way are bounded on both sides', async () => {
  const { child } = await links({ parent: { onCall: () => new Promise(() => {}) } })
  const stop = new AbortController()
  const calls = Array.from({ length: 1024 }, () =>
    failure(child.call(EVENTS, ApiAnswer, { signal: stop.signal })),
  )
  const one = await failure(child.call(EVENTS, ApiAnswer, { signal: never }))
  assert.equal(one.code, 'MESH0303')
  assert.match(one.message, /busy: 1024 calls to parent/)
  // The peer answers 256 at once, and refuses the rest.
  const refused = await Promise.all(calls.slice(256))
  assert(
    refused.every(({ code, message }) => code === 'MESH0303' && /busy: 256 calls/.test(message)),
  )
  child.close('done')
  assert((await Promise.all(calls.slice(0, 256))).every(({ code }) => code === 'MESH0505'))
})

test('peer-link: when the link closes, own calls fail and served ones are aborted', async () => {
  const aborted = Promise.withResolvers<void>()
  const { child, parent } = await links({
    parent: {
      onCall: (_, { signal }) => {
        signal.addEventListener('abort', () => aborted.resolve())
        return new Promise(() => {})
      },
    },
  })
  const calling = failure(child.call(EVENTS, ApiAnswer, { signal: never }))
  await turnOver()
  parent.close('going')
  const error = await calling
  assert.deepEqual(
    [error.code, error.message],
    ['MESH0505', 'the link to parent closed: the peer hung up'],
  )
  await aborted.promise
  assert.equal((await failure(child.call(EVENTS, ApiAnswer, { signal: never }))).code, 'MESH0505')
})

const BAD_FRAMES: readonly (readonly [string, Uint8Array, RegExp])[] = [
  ['a second hello', encodeObject(WorkMessage, hello(PARENT, 'parent')), /a second hello/],
  ['an unknown type', encodeCbor({ type: 'surprise' }), /message at type/],
  ['a field over its limit', encodeCbor({ ...sync(1), note: 'x'.repeat(2000) }), /message at note/],
  ['no cbor', Buffer.from([0xff, 0xff]), /not dag-cbor/],
  ['nothing', new Uint8Array(), /not dag-cbor/],
]
for (const [what, frame, message] of BAD_FRAMES) {
  test(`peer-link: ${what} closes the link`, async () => {
    const { link, peer } = await halfLink()
    await peer.send(frame)
    assert.match(await link.closed, /^bad message: /)
    assert.match(await link.closed, message)
    await peer.closed
  })
}

test('peer-link: the same call id twice at once closes the link', async () => {
  const { link, peer } = await halfLink({ onCall: () => new Promise(() => {}) })
  await post(peer, { type: 'call', id: 5, call: EVENTS })
  await post(peer, { type: 'call', id: 5, call: EVENTS })
  assert.match(await link.closed, /call 5 twice/)
})

test('peer-link: answers and aborts for unknown calls are ignored', async () => {
  const { link, peer } = await halfLink({ onCall: () => Promise.resolve(answer('yes')) })
  await post(peer, { type: 'answer', id: 77, body: null, done: true })
  await post(peer, { type: 'abort', id: 77 })
  await post(peer, { type: 'call', id: 1, call: EVENTS })
  const message = await receive(peer)
  assert(message.type === 'answer' && message.id === 1 && message.done)
  link.close('done')
})

test('peer-link: an answer too large for a frame fails its call only', async () => {
  const { child } = await links({
    parent: {
      onCall: (call) =>
        Promise.resolve(
          call.method === 'api' ? answer('ok') : new Uint8Array(WORK_FRAME_BYTES_MAX),
        ),
    },
  })
  const error = await failure(child.call(EVENTS, ApiAnswer, { signal: never }))
  assert.equal(error.code, 'MESH0211')
  const api: Call = { method: 'api', verb: 'GET', path: '/', body: '', user: '', hops: 0 }
  assert.equal((await child.call(api, ApiAnswer, { signal: never })).body, 'ok')
})

test('peer-link: 30 s of silence close the link, a word in between does not', async () => {
  const { link, peer, clock } = await halfLink()
  for (let round = 0; round < 3; round++) {
    for (let step = 0; step < 5; step++) clock.step(5_000)
    await post(peer, desired(round))
    await turnOver()
  }
  for (let step = 0; step < 5; step++) clock.step(5_000)
  await turnOver()
  clock.step(5_000)
  assert.equal(await link.closed, 'silent for 30 s')
})

test('peer-link: a process that stood still does not blame its peer', async () => {
  const { link, clock } = await halfLink()
  clock.step(3_600_000)
  let isClosed = false
  link.closed.then(() => {
    isClosed = true
  })
  await turnOver()
  assert(!isClosed)
  link.close('done')
})

test('peer-link: a handler that throws closes the link with its reason', async () => {
  const { link, peer } = await halfLink({
    ...REFUSE,
    onSync: () => {
      throw new Error('cannot take it')
    },
  })
  await post(peer, sync(1))
  assert.match(await link.closed, /cannot take it/)
})

test('peer-link: what is asked for in the handlers callback is already heard by the peer', async () => {
  const clock = new StepClock()
  const channels = memoryChannels({ remotePeers: [PARENT, CHILD] })
  const got = Promise.withResolvers<number>()
  const open = (
    channel: FrameChannel,
    own: HelloMessage,
    handlers: (link: PeerLink) => LinkHandlers,
  ): Promise<PeerLink> =>
    openPeerLink({ channel, clock, log }, { hello: own, handlers, signal: never })
  await Promise.all([
    open(channels[0], hello(CHILD, 'child'), (link) => {
      link.requestSync(() => sync(3))
      return REFUSE
    }),
    open(channels[1], hello(PARENT, 'parent'), () => ({
      ...REFUSE,
      onSync: ({ seq }) => got.resolve(seq),
    })),
  ])
  assert.equal(await got.promise, 3)
})
