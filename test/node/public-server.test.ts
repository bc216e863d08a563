/** One port for TLS and plain HTTP: who is let in, what a peer gets over TLS, and what stalling costs. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, get, type IncomingMessage } from 'node:http'
import { connect, type Socket } from 'node:net'
import { mkdtemp, rm } from 'node:fs/promises'
import { networkInterfaces, tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { createServer as createTlsServer, TLSSocket } from 'node:tls'
import { pino } from 'pino'
import { systemClock, type Clock } from '../../src/base/clock.ts'
import { systemRandom } from '../../src/base/random.ts'
import { Gate } from '../../src/node/data-plane/gate.ts'
import { openTlsIdentity, type TlsIdentity } from '../../src/node/data-plane/tls-identity.ts'
import { openPublic } from '../../src/node/doors/public-server.ts'
import { DOOR_LIMITS, openDoor, type DoorLimits } from '../../src/node/doors/tls-or-plain.ts'
import { openFetcher } from '../../src/store/fetcher.ts'
import { casRoutes } from '../../src/store/http-routes.ts'
import { openHttpSource, type HttpSource } from '../../src/store/http-source.ts'
import { openMemoryBlobStore } from '../../src/store/memory-blob-store.ts'
import { mintToken, TOKEN_MS } from '../../src/wire/access-token.ts'
import type { BlobRef } from '../../src/wire/digest.ts'
import { bytesOf, readAll, refOf } from '../contract/blob-store.ts'
import { StepClock } from '../store/support.ts'
import { signerOf } from '../wire/samples.ts'
import { never } from './hosts.ts'
import { ManualClock } from './manual-clock.ts'

const log = pino({ level: 'silent' })
const ROOT = signerOf('root')
const CLIENT = signerOf('client')
const LOOPBACK = { host: '127.0.0.1', port: 0 }
const BLOB = bytesOf(1_000_000)

async function identity(name: string): Promise<TlsIdentity> {
  const directory = await mkdtemp(join(tmpdir(), 'mesh-tls-'))
  try {
    const deps = { clock: systemClock(), random: systemRandom() }
    return await openTlsIdentity(deps, { directory, peerId: signerOf(name).peerId })
  } finally {
    await rm(directory, { recursive: true })
  }
}

const SERVER_TLS = await identity('server')
const CLIENT_TLS = await identity('client')
const OTHER_TLS = await identity('other')

/** A node with one blob, which takes the tokens of the root. */
async function node(t: TestContext, more: { isOpen?: boolean; host?: string } = {}) {
  const clock = systemClock()
  const store = openMemoryBlobStore()
  await store.put(BLOB)
  const state: { issuer: string | undefined; sessions: boolean[] } = {
    issuer: ROOT.peerId,
    sessions: [],
  }
  const gate = new Gate({ clock, issuer: () => state.issuer }, { isOpen: more.isOpen ?? false })
  const routes = casRoutes({ store, actions: { find: async () => undefined }, log })
  const server = await openPublic(
    {
      clock,
      log,
      gate,
      cas(request, response) {
        if (request.socket instanceof TLSSocket)
          state.sessions.push(request.socket.isSessionReused())
        return routes(request, response)
      },
      metrics: async () => 'metrics\n',
      failing: () => [],
    },
    { listen: { ...LOOPBACK, host: more.host ?? LOOPBACK.host }, tls: SERVER_TLS },
  )
  t.after(() => server[Symbol.asyncDispose]())
  return { port: server.address.port, store, state }
}

interface How {
  readonly token?: (refused?: string) => string
  readonly certificate?: TlsIdentity['digest']
  readonly own?: TlsIdentity
  readonly clock?: Clock
}

const mint = (more: { to?: string; own?: TlsIdentity; ms?: number; by?: typeof ROOT } = {}) =>
  mintToken(
    { holder: more.to ?? CLIENT.peerId, certificate: (more.own ?? CLIENT_TLS).digest },
    Date.now() + (more.ms ?? TOKEN_MS),
    more.by ?? ROOT,
  )

function peer(t: TestContext, port: number, how: How = {}): HttpSource {
  const source = openHttpSource(
    { clock: how.clock ?? systemClock() },
    {
      url: `https://127.0.0.1:${port}`,
      kind: 'peer',
      access: {
        certificate: how.certificate ?? SERVER_TLS.digest,
        own: how.own ?? CLIENT_TLS,
        token: async ({ refused }) => (how.token ?? (() => mint()))(refused),
      },
    },
  )
  t.after(() => source[Symbol.asyncDispose]())
  return source
}

const fetchAll = async (from: HttpSource, ref: BlobRef, offsetBytes = 0) =>
  readAll(await from.fetch(ref, { offsetBytes, signal: never }))

interface Answer {
  readonly status: number
  readonly text: string
  readonly headers: IncomingMessage['headers']
}

/** Plain HTTP. */
function ask(
  port: number,
  path: string,
  more: { localAddress?: string; headers?: Record<string, string> } = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    get({ host: '127.0.0.1', port, path, agent: false, ...more }, (response) => {
      let text = ''
      response.setEncoding('latin1').on('data', (piece: string) => (text += piece))
      response.once('end', () =>
        resolve({ status: response.statusCode ?? 0, text, headers: response.headers }),
      )
      response.once('error', reject)
    }).once('error', reject)
  })
}

const ref = refOf(BLOB)

test('public-server: a peer reads over TLS, in parts, in batches and on resumed sessions', async (t) => {
  const { port, store, state } = await node(t)
  const small = await store.put(Buffer.from('small'))
  const source = peer(t, port)
  assert.deepEqual(await fetchAll(source, ref), BLOB)
  assert.deepEqual(await fetchAll(source, ref, 999_999), BLOB.subarray(999_999))
  assert.equal(await source.sizeOf(ref.digest, { signal: never }), ref.size)
  assert.equal(await fetchAll(source, refOf(Buffer.from('absent'))), undefined)
  const batch: string[] = []
  assert(source.fetchMany !== undefined)
  for await (const { bytes } of source.fetchMany([small], { signal: never }))
    batch.push(Buffer.from(bytes).toString())
  assert.deepEqual(batch, ['small'])
  // Many at once need more connections; their sessions still show whose token it is.
  await Promise.all(Array.from({ length: 6 }, () => fetchAll(source, ref)))
  assert(state.sessions.includes(true), 'no session was resumed')
})

test('public-server: the same port answers plain HTTP to this machine, and health to all', async (t) => {
  const { port } = await node(t)
  assert.deepEqual(Buffer.from((await ask(port, `/cas/${ref.digest}`)).text, 'latin1'), BLOB)
  for (const path of ['/healthz', '/readyz', '/metrics'])
    assert.equal((await ask(port, path)).status, 200, path)
  assert.equal((await ask(port, '/api/status')).status, 404)
  assert.equal((await ask(port, '/', { headers: { host: 'evil.example' } })).status, 403)
  assert.equal((await ask(port, '/', { headers: { origin: 'http://127.0.0.1' } })).status, 403)
})

test('public-server: plain HTTP from elsewhere is told what to do, unless the door is open', async (t) => {
  const outer = Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .find(({ internal, family }) => !internal && family === 'IPv4')?.address
  if (outer === undefined) {
    t.skip('this machine has no address but loopback')
    return
  }
  const from = { localAddress: outer }
  const closed = await node(t)
  const refused = await ask(closed.port, `/cas/${ref.digest}`, from)
  assert.equal(refused.status, 421)
  assert.match(refused.text, /plain HTTP is answered to this machine alone.*--http-open/)
  for (const path of ['/healthz', '/readyz', '/metrics'])
    assert.equal((await ask(closed.port, path, from)).status, 200, path)
  const open = await node(t, { isOpen: true })
  const given = await ask(open.port, `/cas/${ref.digest}`, {
    ...from,
    headers: { host: 'mirror.example' },
  })
  assert.equal(given.status, 200)
})

test('public-server: a token that does not count is refused with the reason', async (t) => {
  const { port, state } = await node(t)
  const cases: [string, How, RegExp][] = [
    ['none', { token: () => '' }, /show a token/],
    ['nonsense', { token: () => 'abc' }, /token/],
    ['ended', { token: () => mint({ ms: -6 * 60_000 }) }, /the token ended at 20\d\d-/],
    ['of another owner', { token: () => mint({ by: CLIENT }) }, /the token is from 12D3KooW/],
    ['of another node', { own: OTHER_TLS }, /is for 12D3KooW\w+, who has another certificate/],
    [
      'changed',
      { token: () => mint().replace(/.$/, (last) => (last === 'A' ? 'E' : 'A')) },
      /signed by/,
    ],
  ]
  for (const [name, how, reason] of cases)
    await assert.rejects(
      fetchAll(peer(t, port, how), ref),
      { name: 'SourceError', reason: 'failed', message: reason },
      name,
    )
  state.issuer = undefined
  await assert.rejects(fetchAll(peer(t, port), ref), { message: /takes those of nobody yet/ })
  state.issuer = ROOT.peerId
  // Clocks may differ.
  assert.deepEqual(
    await fetchAll(peer(t, port, { token: () => mint({ ms: -4 * 60_000 }) }), ref),
    BLOB,
  )
})

test('http-source: a refused token is replaced once, also for a batch', async (t) => {
  const { port } = await node(t)
  const old = mint({ ms: -10 * 60_000 })
  const asked: (string | undefined)[] = []
  const token = (refused?: string): string => {
    asked.push(refused)
    return refused === undefined ? old : mint()
  }
  assert.deepEqual(await fetchAll(peer(t, port, { token }), ref), BLOB)
  assert.deepEqual(asked, [undefined, old])
  const batching = peer(t, port, { token })
  assert(batching.fetchMany !== undefined)
  for await (const { bytes } of batching.fetchMany([refOf(Buffer.from('x'))], { signal: never }))
    assert.fail(`there is no such blob: ${bytes.length}`)
  const failing = peer(t, port, {
    token(refused) {
      if (refused !== undefined) throw new Error('the root is away')
      return old
    },
  })
  await assert.rejects(fetchAll(failing, ref), {
    reason: 'failed',
    message: /^answered 401: the token ended at .*; no token for it: the root is away$/,
  })
})

test('http-source: a peer with another certificate is not spoken to, and another source is used', async (t) => {
  const { port, state } = await node(t)
  const wrong = peer(t, port, { certificate: OTHER_TLS.digest })
  const message = `showed another certificate than its record says: expected sha256 ${OTHER_TLS.digest}, observed ${SERVER_TLS.digest}`
  await assert.rejects(fetchAll(wrong, ref), { reason: 'failed', message })
  assert.deepEqual(state.sessions, [], 'no request was sent')

  const good = peer(t, (await node(t)).port)
  const clock = systemClock()
  await using store = openMemoryBlobStore()
  const fetcher = openFetcher(
    { store, clock, log, random: systemRandom(), locate: async () => new Map() },
    { mirrors: [] },
  )
  const moved = await fetcher.fetchAll([ref], { hints: [wrong, good], signal: never })
  assert.equal(moved.peer, BLOB.length)
  await assert.rejects(
    fetcher.fetchAll([refOf(bytesOf(300_000, 9))], { hints: [wrong], signal: never }),
    (error) => error instanceof Error && error.message.includes(message),
  )
})

/** A server that shows the right certificate, and then does as told. */
async function tlsServer(t: TestContext, onConnection: (socket: TLSSocket) => void) {
  const server = createTlsServer(
    { key: SERVER_TLS.key, cert: SERVER_TLS.certificate },
    onConnection,
  )
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => sockets.add(socket))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const address = server.address()
  assert(typeof address === 'object' && address !== null)
  return address.port
}

test('http-source: silence over TLS ends the attempt, in the handshake, the answer and the body', async (t) => {
  const silent = createServer()
  silent.removeAllListeners('connection')
  const sockets: Socket[] = []
  silent.on('connection', (socket: Socket) => void sockets.push(socket))
  silent.listen(0, '127.0.0.1')
  await once(silent, 'listening')
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    silent.close()
  })
  const address = silent.address()
  assert(typeof address === 'object' && address !== null)
  const ports = {
    handshake: address.port,
    answer: await tlsServer(t, (socket) => void socket.on('error', () => undefined)),
    body: await tlsServer(t, (socket) => {
      socket.on('error', () => undefined)
      socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${ref.size}\r\n\r\nbegin`)
    }),
  }
  for (const [name, port] of Object.entries(ports)) {
    const clock = new StepClock()
    await assert.rejects(
      clock.run(fetchAll(peer(t, port, { clock }), ref), 500),
      { name: 'SourceError', reason: 'stalled' },
      name,
    )
    assert(clock.nowMs() <= 10_000, `${name}: ${clock.nowMs()} ms`)
  }
})

/** A door whose time is the test's. */
async function door(t: TestContext, limits: Partial<DoorLimits> = {}) {
  const clock = new ManualClock()
  const opened = await openDoor(
    { clock, log, listener: (_, response) => void response.end('hello') },
    { ...LOOPBACK, tls: SERVER_TLS, limits: { ...DOOR_LIMITS, ...limits } },
  )
  t.after(() => opened[Symbol.asyncDispose]())
  return { clock, port: opened.port }
}

/** Sends this much, says nothing more, and waits for the end. */
async function stall(port: number, bytes: string | Uint8Array) {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  const closed = once(socket, 'close')
  socket.resume()
  if (bytes.length > 0) await new Promise((resolve) => socket.write(bytes, resolve))
  return { socket, closed }
}

/** The head of a ClientHello, of which nothing follows. */
const HALF_HELLO = Buffer.from('160301020001', 'hex')

test('tls-or-plain: who stalls before or within a handshake is cut off, and hinders nobody', async (t) => {
  const { clock, port } = await door(t)
  const stalled = [await stall(port, ''), await stall(port, HALF_HELLO)]
  // Served after them: they have been accepted, and their time runs.
  assert.equal((await ask(port, '/')).text, 'hello')
  clock.step(DOOR_LIMITS.openMs)
  await Promise.all(stalled.map(({ closed }) => closed))
  assert.equal((await ask(port, '/')).text, 'hello')
  assert.deepEqual(clock.pendingMs(), [], 'nothing is left of any connection')
})

test('tls-or-plain: of too many half-open connections the oldest goes', async (t) => {
  const { port } = await door(t, { halfOpenMax: 3 })
  const stalled: Awaited<ReturnType<typeof stall>>[] = []
  for (let at = 0; at < 5; at++) stalled.push(await stall(port, HALF_HELLO))
  assert.equal((await ask(port, '/')).text, 'hello')
  await Promise.all(stalled.slice(0, 3).map(({ closed }) => closed))
  assert.deepEqual(
    stalled.map(({ socket }) => socket.closed),
    [true, true, true, false, false],
  )
})

test('tls-or-plain: a head that never ends is cut off', async (t) => {
  const { port } = await door(t, { headersMs: 100 })
  const { closed } = await stall(port, 'GET / HTTP/1.1\r\nhost: ')
  await closed
})

test('tls-or-plain: no more connections than there is room for', async (t) => {
  const { port } = await door(t, { connectionsMax: 2 })
  const held = [await stall(port, 'GET'), await stall(port, 'GET')]
  const { closed } = await stall(port, '')
  await closed
  for (const { socket } of held) socket.destroy()
})

test('tls-or-plain: idle connections make room for new ones', async (t) => {
  const { port } = await door(t, { connectionsMax: 2 })
  const idle: Awaited<ReturnType<typeof stall>>[] = []
  for (let at = 0; at < 2; at++) {
    const held = await stall(port, 'GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n')
    await once(held.socket, 'data')
    idle.push(held)
  }
  // Refused itself, but the next one finds room.
  await (
    await stall(port, '')
  ).closed
  await Promise.all(idle.map(({ closed }) => closed))
  assert.equal((await ask(port, '/')).text, 'hello')
})

test('tls-or-plain: one that goes before it has said anything leaves nothing behind', async (t) => {
  const { clock, port } = await door(t)
  for (const bytes of ['', HALF_HELLO, 'G']) {
    const { socket, closed } = await stall(port, bytes)
    socket.end()
    await closed
  }
  assert.equal((await ask(port, '/')).text, 'hello')
  assert.deepEqual(clock.pendingMs(), [])
})
