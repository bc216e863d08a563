/** The host on loopback: listening, dialling, admission, limits, dead connections. */
import assert from 'node:assert/strict'
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { MeshError } from '../../src/base/errors.ts'
import { findListener, type Host } from '../../src/node/links/libp2p-host.ts'
import type { FrameChannel } from '../../src/wire/frame-channel.ts'
import { StepClock } from '../store/support.ts'
import { bareAddress, host, LOOPBACK, never, PROTOCOL, until } from './hosts.ts'

const open = { frameBytesMax: 1024, signal: never }

let listener: Host
let dialer: Host
const accepted: FrameChannel[] = []

before(async () => {
  listener = await host(11)
  dialer = await host(12, { listen: [] })
  await listener.handle(PROTOCOL, { frameBytesMax: 1024, streamsMax: 4 }, (channel) =>
    accepted.push(channel),
  )
})
after(async () => {
  await Promise.all([listener[Symbol.asyncDispose](), dialer[Symbol.asyncDispose]()])
})

/** What `opening` fails with. */
async function failure(opening: Promise<unknown>): Promise<MeshError> {
  try {
    await opening
  } catch (error) {
    assert(error instanceof MeshError, String(error))
    return error
  }
  return assert.fail('it did not fail')
}

async function startHost(
  identity: number,
  listen = LOOPBACK,
): Promise<{ child: ChildProcess; address: string }> {
  const child = fork(
    join(import.meta.dirname, 'idle-host.ts'),
    [String(identity), listen, PROTOCOL],
    { execArgv: [] },
  )
  const [[address]] = await once(child, 'message')
  return { child, address }
}

test('libp2p-host: the seed makes the identity, and addresses end with it', async () => {
  await using again = await host(11)
  assert.equal(again.peerId, listener.peerId)
  assert.match(again.peerId, /^12D3KooW/)
  assert.equal(again.listenAddresses().length, 1)
  assert.match(
    again.listenAddresses()[0] ?? '',
    new RegExp(`^/ip4/127.0.0.1/tcp/[1-9]\\d*/p2p/${again.peerId}$`),
  )
  assert.deepEqual(dialer.listenAddresses(), [])
})

test('libp2p-host: a second channel uses the connection that is there, whoever dialled it', async () => {
  await dialer.handle(PROTOCOL, { frameBytesMax: 1024, streamsMax: 4 }, (channel) =>
    accepted.push(channel),
  )
  accepted.length = 0
  const first = await dialer.open({ addresses: listener.listenAddresses() }, PROTOCOL, open)
  assert.equal(first.remotePeer, listener.peerId)
  assert(listener.isConnected(dialer.peerId) && dialer.isConnected(listener.peerId))
  const back = await listener.open({ peerId: dialer.peerId, addresses: [] }, PROTOCOL, open)
  await until(() => accepted.length === 2)
  await back.send(Buffer.from('from the parent'))
  const atDialer = accepted.find(({ remotePeer }) => remotePeer === listener.peerId)
  assert.equal(String(await atDialer?.receive()), 'from the parent')
  await dialer.hangUp(listener.peerId)
  await Promise.all([first.closed, back.closed])
  await until(() => !listener.isConnected(dialer.peerId))
  assert(!dialer.isConnected(listener.peerId))
})

test('libp2p-host: a taken address is named with the process that has it', async () => {
  const error = await failure(host(13, { listen: [bareAddress(listener)] }))
  assert.equal(error.code, 'MESH0103')
  assert.equal(error.exit, 69)
  assert.equal(error.where, bareAddress(listener))
  assert(error.message.includes(`process ${process.pid} `), error.message)
})

test('libp2p-host: an address that cannot be listened on is a wrong configuration', async () => {
  const foreign = await failure(host(13, { listen: ['/ip4/192.0.2.1/tcp/0'] }))
  assert.equal(foreign.code, 'MESH0104')
  assert.match(foreign.message, /\/ip4\/192\.0\.2\.1\/tcp\/0.*EADDRNOTAVAIL/)
  const nonsense = await failure(host(13, { listen: ['127.0.0.1:7421'] }))
  assert.equal(nonsense.code, 'MESH0104')
  assert.match(nonsense.message, /"127\.0\.0\.1:7421" is not a multiaddr/)
})

test('libp2p-host: the process that listens on a port is found, a free port has none', async () => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  assert.equal(findListener(port), process.pid)
  server.close()
  await once(server, 'close')
  assert.equal(findListener(port), undefined)
})

test('libp2p-host: addresses are tried in turn, and each failure is told', async () => {
  const dead = '/ip4/127.0.0.1/tcp/1'
  const channel = await dialer.open(
    { addresses: [dead, ...listener.listenAddresses()] },
    PROTOCOL,
    open,
  )
  assert.equal(channel.remotePeer, listener.peerId)
  await dialer.hangUp(listener.peerId)
  const error = await failure(dialer.open({ addresses: [dead, 'nonsense'] }, PROTOCOL, open))
  assert.equal(error.code, 'MESH0120')
  assert.match(error.message, /tcp\/1: .*ECONNREFUSED.*\n.*"nonsense" is not a multiaddr/)
})

test('libp2p-host: another peer at the address than the pinned one is an error', async () => {
  await using other = await host(14)
  const addresses = [bareAddress(other)]
  const error = await failure(dialer.open({ peerId: listener.peerId, addresses }, PROTOCOL, open))
  assert.equal(error.code, 'MESH0120')
  assert(
    error.message.includes(other.peerId) && error.message.includes(listener.peerId),
    error.message,
  )
  const named = await failure(
    dialer.open({ peerId: listener.peerId, addresses: other.listenAddresses() }, PROTOCOL, open),
  )
  assert.match(named.message, /names another node than/)
  assert(!dialer.isConnected(other.peerId))
})

test('libp2p-host: both sides refuse peers that they do not admit, and the refused one is told', async () => {
  await using strict = await host(15, { admits: (peerId) => peerId !== dialer.peerId })
  await strict.handle(PROTOCOL, { frameBytesMax: 1024, streamsMax: 4 }, () =>
    assert.fail('a refused peer got a channel'),
  )
  for (let round = 0; round < 5; round++) {
    const error = await failure(
      dialer.open({ addresses: strict.listenAddresses() }, PROTOCOL, open),
    )
    assert.equal(error.code, 'MESH0123')
    assert(error.message.includes(dialer.peerId), error.message)
  }
  await using wary = await host(16, { listen: [], admits: (peerId) => peerId !== listener.peerId })
  const own = await failure(wary.open({ addresses: listener.listenAddresses() }, PROTOCOL, open))
  assert.equal(own.code, 'MESH0123')
  assert.match(own.message, /this node does not admit/)
})

test('libp2p-host: a protocol that the peer does not speak is told as such, and the connection is kept', async () => {
  const error = await failure(
    dialer.open({ addresses: listener.listenAddresses() }, '/mesh/none/1', open),
  )
  assert.equal(error.code, 'MESH0121')
  assert(error.message.includes('/mesh/none/1'), error.message)
  assert(dialer.isConnected(listener.peerId))
})

test('libp2p-host: a stream over the limit of the peer ends, those before it go on', async () => {
  accepted.length = 0
  await dialer.hangUp(listener.peerId)
  const channels: FrameChannel[] = []
  for (let count = 0; count < 5; count++)
    channels.push(await dialer.open({ addresses: listener.listenAddresses() }, PROTOCOL, open))
  const last = channels.pop()
  await last?.closed
  assert.equal(await last?.receive(), undefined)
  await until(() => accepted.length === 4)
  for (const channel of channels) await channel.send(Buffer.from('still here'))
  for (const channel of accepted) assert.equal(String(await channel.receive()), 'still here')
  await dialer.hangUp(listener.peerId)
})

test('libp2p-host: 40 nodes of one address connect at once', async () => {
  const nodes = await Promise.all(
    Array.from({ length: 40 }, (_, index) => host(100 + index, { listen: [] })),
  )
  const channels = await Promise.all(
    nodes.map((node) => node.open({ addresses: listener.listenAddresses() }, PROTOCOL, open)),
  )
  for (const channel of channels) await channel.send(Buffer.from('hello'))
  assert(nodes.every((node) => listener.isConnected(node.peerId)))
  await Promise.all(nodes.map((node) => node[Symbol.asyncDispose]()))
})

test('libp2p-host: an aborted open throws the reason', async () => {
  const stop = new AbortController()
  const opening = dialer.open({ addresses: ['/ip4/192.0.2.1/tcp/9'] }, PROTOCOL, {
    ...open,
    signal: stop.signal,
  })
  stop.abort(new Error('never mind'))
  await assert.rejects(opening, /never mind/)
  await assert.rejects(
    dialer.open({ addresses: listener.listenAddresses() }, PROTOCOL, {
      ...open,
      signal: stop.signal,
    }),
    /never mind/,
  )
})

test('libp2p-host: a connection to a process that hangs is given up and dialled anew', async () => {
  const clock = new StepClock()
  await using node = await host(17, { listen: [], clock })
  const { child, address } = await startHost(18)
  const old = await node.open({ addresses: [address] }, PROTOCOL, open)
  child.kill('SIGSTOP')
  const error = await clock.run(failure(node.open({ addresses: [address] }, PROTOCOL, open)))
  assert.equal(error.code, 'MESH0120')
  assert.match(error.message, /no answer within 5 s/)
  assert.equal(await old.receive(), undefined)
  child.kill('SIGCONT')
  const channel = await node.open({ addresses: [address] }, PROTOCOL, open)
  await channel.send(Buffer.from('back'))
  assert.equal(String(await channel.receive()), 'back')
  child.kill('SIGKILL')
  assert.equal(await channel.receive(), undefined)
  await until(() => !node.isConnected(channel.remotePeer))
})

test('libp2p-host: disposing ends every channel and leaves nothing that keeps a process alive', async () => {
  const own = await host(19)
  const peer = await host(20, { listen: [] })
  const got = Promise.withResolvers<FrameChannel>()
  await own.handle(PROTOCOL, { frameBytesMax: 1024, streamsMax: 4 }, got.resolve)
  const channel = await peer.open({ addresses: own.listenAddresses() }, PROTOCOL, open)
  await own[Symbol.asyncDispose]()
  assert.equal(await channel.receive(), undefined)
  assert.equal(await (await got.promise).receive(), undefined)
  await peer[Symbol.asyncDispose]()
  await until(
    () =>
      findListener(Number(/tcp\/(\d+)/.exec(own.listenAddresses()[0] ?? '')?.[1])) === undefined,
  )
})
