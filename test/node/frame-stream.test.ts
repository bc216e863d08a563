/** Frame channels: one suite for libp2p streams and for the channel in memory, then what only streams can do. */
import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { after, before, suite, test } from 'node:test'
import { noise } from '@chainsafe/libp2p-noise'
import type { Libp2p, Stream } from '@libp2p/interface'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import type { Host } from '../../src/node/links/libp2p-host.ts'
import type { FrameChannel } from '../../src/wire/frame-channel.ts'
import { memoryChannels } from '../support/memory-channel.ts'
import { host, never, PROTOCOL, until } from './hosts.ts'

const MIB = 1024 * 1024

/** Bytes that tell their place. */
function pattern(length: number): Buffer {
  const bytes = Buffer.alloc(length)
  for (let at = 0; at + 4 <= length; at += 4) bytes.writeUInt32LE(at ^ length, at)
  return bytes
}

async function receiveAll(channel: FrameChannel): Promise<Uint8Array[]> {
  const frames: Uint8Array[] = []
  for (;;) {
    const frame = await channel.receive()
    if (frame === undefined) return frames
    frames.push(frame)
  }
}

let listener: Host
let dialer: Host
/** A node that can send anything. */
let raw: Libp2p
let accepted: ((channel: FrameChannel) => void)[] = []

before(async () => {
  listener = await host(1)
  dialer = await host(2, { listen: [] })
  raw = await createLibp2p({
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    connectionMonitor: { enabled: false },
  })
  await listener.handle(PROTOCOL, { frameBytesMax: MIB, streamsMax: 64 }, (channel) =>
    accepted.shift()?.(channel),
  )
})
after(async () => {
  await Promise.all([listener[Symbol.asyncDispose](), dialer[Symbol.asyncDispose](), raw.stop()])
})

function nextAccepted(): Promise<FrameChannel> {
  return new Promise((resolve) => accepted.push(resolve))
}

async function streamChannels(): Promise<[FrameChannel, FrameChannel]> {
  const theirs = nextAccepted()
  const ours = await dialer.open({ addresses: listener.listenAddresses() }, PROTOCOL, {
    frameBytesMax: MIB,
    signal: never,
  })
  return [ours, await theirs]
}

async function rawStream(): Promise<[Stream, FrameChannel]> {
  const theirs = nextAccepted()
  const stream = await raw.dialProtocol(
    listener.listenAddresses().map((text) => multiaddr(text)),
    PROTOCOL,
  )
  return [stream, await theirs]
}

function head(length: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(length)
  return bytes
}

for (const [kind, open] of [
  ['stream', streamChannels],
  ['memory', () => Promise.resolve(memoryChannels({ frameBytesMax: MIB }))],
] as const) {
  suite(`frame-channel ${kind}`, () => {
    test(`frame-channel ${kind}: frames of every size arrive whole and in order, in both directions`, async () => {
      const [left, right] = await open()
      const sizes = [0, 1, 3, 64 * 1024 - 5, 64 * 1024 - 4, 64 * 1024, 0, 300_000, MIB, 7, 0]
      for (const [from, to] of [
        [left, right],
        [right, left],
      ] as const) {
        const sent = Promise.all(sizes.map((size) => from.send(pattern(size))))
        for (const size of sizes)
          assert.deepEqual(Buffer.from((await to.receive()) ?? 'ended'), pattern(size))
        await sent
      }
      left.close()
    })

    test(`frame-channel ${kind}: a sender that waits cannot run ahead of a reader that does not read`, async () => {
      const [left, right] = await open()
      const count = 800
      let sentCount = 0
      const sending = (async () => {
        for (; sentCount < count; sentCount++)
          await left.send(Buffer.alloc(64 * 1024, sentCount % 251))
      })()
      let readCount = 0
      const read = async (upTo: number): Promise<void> => {
        for (; readCount < upTo; readCount++) {
          const frame = await right.receive()
          assert(
            frame?.byteLength === 64 * 1024 && frame[0] === readCount % 251,
            `frame ${readCount}`,
          )
          // A reader that stalls now and then makes the stream pause and resume.
          if (readCount % 50 === 0) for (let turns = 0; turns < 50; turns++) await turn()
        }
      }
      for (const stop of [0, 200, 400]) {
        await read(stop)
        // Until nothing has moved for a while.
        for (let quiet = 0, seen = -1; quiet < 1_000; quiet++, await turn()) {
          if (sentCount !== seen) quiet = 0
          seen = sentCount
        }
        assert(
          sentCount - stop < 100,
          `${sentCount} of ${count} frames were taken, ${stop} were read`,
        )
      }
      await read(count)
      await sending
      left.close()
    })

    test(`frame-channel ${kind}: after close the other end reads what was sent, then the end`, async () => {
      const [left, right] = await open()
      await left.send(Buffer.from('one'))
      await left.send(Buffer.from('two'))
      left.close()
      left.close()
      assert.deepEqual((await receiveAll(right)).map(String), ['one', 'two'])
      await Promise.all([left.closed, right.closed])
      assert.equal(await right.receive(), undefined)
      assert.equal(await left.receive(), undefined)
      await assert.rejects(left.send(Buffer.from('three')), /closed/)
      await assert.rejects(right.send(Buffer.from('three')), /closed/)
    })

    test(`frame-channel ${kind}: close ends a pending receive and rejects a pending send at once`, async () => {
      const [left, right] = await open()
      const receiving = left.receive()
      const sends = Array.from({ length: 12 }, () => left.send(Buffer.alloc(MIB)))
      const settled = Promise.allSettled(sends)
      left.close()
      assert.equal(await receiving, undefined)
      assert.equal((await settled).at(-1)?.status, 'rejected')
      right.close()
    })

    test(`frame-channel ${kind}: a frame over the limit is not sent`, async () => {
      const [left] = await open()
      await assert.rejects(
        left.send(Buffer.alloc(MIB + 1)),
        /a frame of 1048577 bytes.*the limit is 1048576/,
      )
      left.close()
    })
  })
}

function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve)
  })
}

test('frame-stream: a frame that arrives byte by byte is one frame', async () => {
  const [stream, channel] = await rawStream()
  for (const byte of [...head(3), 1, 2, 3, ...head(0), ...head(1), 9]) {
    stream.send(Uint8Array.of(byte))
    await turn()
  }
  assert.deepEqual([...((await channel.receive()) ?? [])], [1, 2, 3])
  assert.deepEqual([...((await channel.receive()) ?? [])], [])
  assert.deepEqual([...((await channel.receive()) ?? [])], [9])
  channel.close()
})

test('frame-stream: a peer that announces too long a frame is cut off before it sends it', async () => {
  const [stream, channel] = await rawStream()
  const closed = once(stream, 'close')
  stream.send(Buffer.concat([head(2), Buffer.from('ok'), head(MIB + 1), Buffer.alloc(10)]))
  await closed
  assert.equal(stream.status, 'reset')
  assert.equal(await channel.receive(), undefined)
  await channel.closed
})

test('frame-stream: a peer that stops writing ends both directions, and what it wrote is read', async () => {
  const [stream, channel] = await rawStream()
  stream.send(Buffer.concat([head(2), Buffer.from('ok'), head(5), Buffer.from('cut')]))
  await stream.close()
  assert.deepEqual((await receiveAll(channel)).map(String), ['ok'])
  await assert.rejects(channel.send(Buffer.from('late')), /closed/)
})

for (const ending of ['closed', 'reset']) {
  test(`frame-stream: what arrived before a paused stream was ${ending} is read after it`, async () => {
    const [stream, channel] = await rawStream()
    // The eleventh frame reaches the high-water mark, the twelfth stays in the stream.
    for (let count = 0; count < 12; count++) {
      stream.send(Buffer.concat([head(100_000), Buffer.alloc(100_000)]))
      for (let turns = 0; turns < 50; turns++) await turn()
    }
    if (ending === 'closed') await stream.close()
    else stream.abort(new Error('gone'))
    await channel.closed
    assert.equal((await receiveAll(channel)).length, 12)
  })
}

test('frame-stream: a flood of empty frames stops when nobody reads, again and again', async () => {
  const [stream, channel] = await rawStream()
  const flood = Buffer.alloc(64 * 1024)
  for (let round = 0; round < 3; round++) {
    let bytes = 0
    while (!stream.writableNeedsDrain && bytes < 16 * MIB) {
      stream.send(flood)
      bytes += flood.byteLength
      for (let turns = 0; turns < 5; turns++) await turn()
    }
    assert(bytes < 4 * MIB, `${bytes} bytes of empty frames were taken`)
    for (let turns = 0; stream.writableNeedsDrain; turns++) {
      assert.equal((await channel.receive())?.byteLength, 0)
      // Room shows at the sender only after some turns, and no more is to be read by then.
      if (turns % 1000 === 0) for (let pause = 0; pause < 50; pause++) await turn()
    }
  }
  assert.equal(stream.status, 'open')
  channel.close()
})

test('frame-stream: the small frames of one tick leave in one send', async () => {
  const [stream, channel] = await rawStream()
  let messages = 0
  let bytes = 0
  stream.addEventListener('message', ({ data }) => {
    messages += 1
    bytes += data.byteLength
  })
  await Promise.all(Array.from({ length: 500 }, () => channel.send(Buffer.alloc(60))))
  await until(() => bytes === 500 * 64)
  assert(messages <= 2, `${messages} messages`)
  channel.close()
})

test('frame-stream: a sender that never waits is cut off at the limit of unsent bytes', async () => {
  const [, channel] = await rawStream()
  const sends = Promise.allSettled(
    Array.from({ length: 17 }, () => channel.send(Buffer.alloc(MIB))),
  )
  assert.equal((await sends).at(-1)?.status, 'rejected')
  await channel.closed
})

test('frame-stream: a peer killed in the middle of a frame ends the channel without that frame', async () => {
  const theirs = nextAccepted()
  const child = fork(
    join(import.meta.dirname, 'half-frame-sender.ts'),
    [PROTOCOL, ...listener.listenAddresses()],
    { execArgv: [] },
  )
  const channel = await theirs
  assert.equal(String(await channel.receive()), 'whole')
  await once(child, 'message')
  child.kill('SIGKILL')
  assert.equal(await channel.receive(), undefined)
  await channel.closed
})
