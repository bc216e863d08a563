/** What a dead, slow or lying source costs: with stepped time, and with real sockets that never answer. */
import assert from 'node:assert/strict'
import { createServer as createHttpServer, type RequestListener } from 'node:http'
import { createServer, type Server } from 'node:net'
import { test, type TestContext } from 'node:test'
import { gzipSync } from 'node:zlib'
import { systemClock, type Clock } from '../../src/base/clock.ts'
import { SourceError, type BlobSource } from '../../src/store/blob-source.ts'
import { openFetcher } from '../../src/store/fetcher.ts'
import { SourceHealth } from '../../src/store/fetch/source-health.ts'
import { openHttpSource } from '../../src/store/http-source.ts'
import { openMemoryBlobStore } from '../../src/store/memory-blob-store.ts'
import { sha256 } from '../../src/wire/digest.ts'
import { bytesOf, refOf } from '../contract/blob-store.ts'
import { log, never, random, StepClock } from './support.ts'

const BYTES = bytesOf(1_000_000)
const REF = refOf(BYTES)

interface Counted extends BlobSource {
  asked: number
}

function source(
  name: string,
  give: (offsetBytes: number, signal: AbortSignal) => AsyncIterable<Uint8Array>,
): Counted {
  return {
    name,
    kind: 'mirror',
    asked: 0,
    async fetch(_, { offsetBytes, signal }) {
      this.asked++
      return give(offsetBytes, signal)
    },
  }
}

const after = (clock: Clock, ms: number): Promise<void> =>
  new Promise((resolve) => void clock.setTimer(ms, resolve))

/** Begins after `firstMs`, then gives `bytesPerS` in pieces of a tenth of a second. */
const paced = (clock: Clock, name: string, firstMs: number, bytesPerS: number): Counted =>
  source(name, async function* (offsetBytes) {
    const step = Math.ceil(bytesPerS / 10)
    await after(clock, firstMs)
    for (let at = offsetBytes; at < BYTES.byteLength; at += step) {
      yield BYTES.subarray(at, at + step)
      await after(clock, 100)
    }
  })

const silent = (name: string): Counted =>
  source(name, async function* (_, signal) {
    await new Promise((_resolve, reject) =>
      signal.addEventListener('abort', () => reject(signal.reason), { once: true }),
    )
    yield new Uint8Array()
  })

const prompt = (name: string): Counted =>
  source(name, async function* (offsetBytes) {
    yield BYTES.subarray(offsetBytes)
  })

function setUp(mirrors: readonly BlobSource[], clock: Clock) {
  const store = openMemoryBlobStore()
  const health = new SourceHealth({ random })
  const fetcher = openFetcher({ store, clock, log, random, health }, { mirrors })
  const fetch = async (): Promise<void> => {
    await store.delete(REF.digest)
    await fetcher.fetch(REF, { signal: never })
    assert.equal(await store.sizeOf(REF.digest), REF.size)
  }
  return { store, health, fetcher, fetch }
}

test('source-health: a black hole costs a quarter of a second once, and is suspended', async () => {
  const clock = new StepClock()
  const [hole, good] = [silent('hole'), prompt('good')]
  const { health, fetch } = setUp([hole, good], clock)
  await clock.run(fetch(), 10)
  assert(clock.nowMs() >= 250 && clock.nowMs() <= 270, `${clock.nowMs()} ms`)
  const report = health.report(hole, clock.nowMs())
  assert.equal(report.state, 'suspended')
  assert.match(report.reason ?? '', /gave nothing for 2\d\d ms/)
  assert(report.suspendedMs > 400)
  const startedAtMs = clock.nowMs()
  for (let times = 0; times < 20; times++) await clock.run(fetch(), 1)
  assert(clock.nowMs() - startedAtMs <= 20)
  assert.equal(hole.asked, 1)
  // Tried again when its time is over, and then suspended for longer.
  clock.step(report.suspendedMs)
  await clock.run(fetch(), 10)
  assert.equal(hole.asked, 2)
  assert(health.report(hole, clock.nowMs()).suspendedMs > report.suspendedMs)
})

test('source-health: a source that is usually prompt gets company sooner', async () => {
  const clock = new StepClock()
  let delayMs = 40
  const usual = source('usual', async function* (offsetBytes, signal) {
    await after(clock, delayMs)
    signal.throwIfAborted()
    yield BYTES.subarray(offsetBytes)
  })
  const other = prompt('other')
  const { health, fetch } = setUp([usual, other], clock)
  for (let times = 0; times < 5; times++) await clock.run(fetch(), 10)
  assert.equal(other.asked, 0)
  assert.equal(health.hedgeMs(usual), 80)
  delayMs = 60_000
  const startedAtMs = clock.nowMs()
  await clock.run(fetch(), 10)
  assert(clock.nowMs() - startedAtMs <= 100, `${clock.nowMs() - startedAtMs} ms`)
  // One hiccup is forgiven; one after the other is not.
  assert.equal(health.report(usual, clock.nowMs()).state, 'ok')
  for (let times = 0; times < 3; times++) await clock.run(fetch(), 10)
  assert.equal(health.report(usual, clock.nowMs()).state, 'suspended')
})

test('source-health: of a source at 10 kB/s no more is waited for than to see that it is slow', async () => {
  const clock = new StepClock()
  const [slow, good] = [paced(clock, 'slow', 10, 10_000), prompt('good')]
  const { health, fetch, fetcher } = setUp([slow, good], clock)
  await clock.run(fetch(), 10)
  // 10 ms to its first byte, 250 ms to take its rate, and then the other one has it all.
  assert(clock.nowMs() <= 320, `${clock.nowMs()} ms`)
  assert.equal(good.asked, 1)
  assert(fetcher.totals.mirror < BYTES.byteLength + 20_000)
  assert.equal(health.report(slow, clock.nowMs()).state, 'suspended')
  assert.equal(health.report(good, clock.nowMs()).state, 'ok')
})

test('source-health: far below what the other usually gives is slow too', async () => {
  const clock = new StepClock()
  const fast = paced(clock, 'fast', 10, 10_000_000)
  const medium = paced(clock, 'medium', 10, 400_000)
  // The fast one is known from before; now it comes second.
  const { health, fetch, fetcher } = setUp([medium, fast], clock)
  health.noteBytes(fast, 10_000_000, 1000)
  await clock.run(fetch(), 10)
  assert.equal(fast.asked, 1)
  assert(clock.nowMs() < 1500, `${clock.nowMs()} ms`)
  assert(fetcher.totals.mirror < 1.5 * BYTES.byteLength)
})

test('source-health: a slow source that is alone gives it all, and a liar is no company for it', async () => {
  const clock = new StepClock()
  const lone = paced(clock, 'lone', 10, 50_000)
  const liar = source('liar', async function* (offsetBytes) {
    yield new Uint8Array(BYTES.byteLength - offsetBytes)
  })
  const { health, fetch } = setUp([lone, liar], clock)
  health.note(liar, 'wrong', clock.nowMs())
  await clock.run(fetch(), 50)
  assert(clock.nowMs() >= 19_000, `${clock.nowMs()} ms`)
  assert.equal(liar.asked, 0)
  assert.equal(lone.asked, 1)
  assert.equal(health.report(lone, clock.nowMs()).state, 'ok')
})

test('source-health: of two that are equally slow both go on until one leads', async () => {
  const clock = new StepClock()
  const [a, b] = [paced(clock, 'a', 10, 40_000), paced(clock, 'b', 10, 50_000)]
  const { fetch, fetcher } = setUp([a, b], clock)
  await clock.run(fetch(), 50)
  assert(clock.nowMs() < 25_000, `${clock.nowMs()} ms`)
  assert(fetcher.totals.mirror < 2 * BYTES.byteLength)
})

test('source-health: a source that falls silent midway is continued by another after a quarter of a second', async () => {
  const clock = new StepClock()
  const stuck = source('stuck', async function* (offsetBytes, signal) {
    yield BYTES.subarray(offsetBytes, 400_000)
    yield* await silent('inner')
      .fetch(REF, { offsetBytes: 0, signal })
      .then((it) => it ?? [])
  })
  const good = prompt('good')
  const { fetch, fetcher } = setUp([stuck, good], clock)
  await clock.run(fetch(), 10)
  assert(clock.nowMs() <= 300, `${clock.nowMs()} ms`)
  assert.equal(fetcher.totals.mirror, BYTES.byteLength)
})

test('source-health: far slower sources are asked after the others, failed ones last', () => {
  const health = new SourceHealth({ random })
  const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((name) => prompt(name))
  assert(a !== undefined && b !== undefined && c !== undefined && d !== undefined)
  health.noteBytes(a, 2_000_000, 10_000)
  health.noteBytes(c, 20_000_000, 1_000)
  health.note(b, 'failed', 0, 'answered 500')
  const { first, last } = health.inOrder([a, b, c, d, c], 1)
  assert.deepEqual([first, last], [[c, d, a], [b]])
  const lied = prompt('lied')
  health.note(lied, 'wrong', 0)
  assert.equal(health.report(lied, 1).suspendedMs, 600_000 - 1)
  health.note(lied, 'wrong', 600_000)
  assert.equal(health.report(lied, 600_000).suspendedMs, 1_200_000)
})

test('source-health: a bounded number of sources is remembered', () => {
  const health = new SourceHealth({ random })
  const first = prompt('first')
  health.note(first, 'wrong', 0)
  for (let at = 0; at < 10_000; at++) health.noteAsked(prompt(`s${at}`))
  assert.equal(health.report(first, 1).state, 'untried')
  assert.equal(health.report(prompt('s1'), 1).asks, 1)
})

test('source-health: asks, hits, bytes and latency are told', async () => {
  const clock = new StepClock()
  const good = paced(clock, 'good', 100, 10_000_000)
  const without: BlobSource = { name: 'without', kind: 'mirror', fetch: async () => undefined }
  const failing: BlobSource = {
    name: 'failing',
    kind: 'mirror',
    fetch: async () => {
      throw new SourceError('failed', 'answered 500')
    },
  }
  const { health, fetch } = setUp([without, failing, good], clock)
  await clock.run(fetch(), 10)
  const { asks, hits, bytes, firstByteMs } = health.report(good, clock.nowMs())
  assert.deepEqual(
    { asks, hits, bytes, firstByteMs },
    { asks: 1, hits: 1, bytes: 1_000_000, firstByteMs: 100 },
  )
  assert.deepEqual(health.report(without, clock.nowMs()).hits, 0)
  assert.equal(health.report(without, clock.nowMs()).state, 'ok')
  assert.equal(health.report(failing, clock.nowMs()).reason, 'answered 500')
  assert.equal(health.failureCount, 1)
})

test('source-health: a source that two lists name is asked once, however slow it is', async () => {
  const clock = new StepClock()
  const lone = paced(clock, 'lone', 600, 200_000)
  const store = openMemoryBlobStore()
  const fetcher = openFetcher(
    { store, clock, log, random, locate: async () => new Map([[REF.digest, [lone]]]) },
    { mirrors: [lone] },
  )
  await clock.run(fetcher.fetch(REF, { hints: [lone], signal: never }), 50)
  assert.equal(lone.asked, 1)
  assert.equal(fetcher.totals.mirror, BYTES.byteLength)
})

test('source-health: who is located while another gives is asked when that one dies', async () => {
  const clock = new StepClock()
  const good = prompt('good')
  const dying = source('dying', async function* (offsetBytes) {
    await after(clock, 300)
    yield BYTES.subarray(offsetBytes, 400_000)
    await after(clock, 100)
    throw new SourceError('failed', 'cable cut')
  })
  const store = openMemoryBlobStore()
  const fetcher = openFetcher({
    store,
    clock,
    log,
    random,
    // Asked when the first is silent for too long, and answered when it has begun.
    async locate() {
      await after(clock, 100)
      return new Map([[REF.digest, [good]]])
    },
  })
  await clock.run(fetcher.fetch(REF, { hints: [dying], signal: never }), 10)
  assert.equal(good.asked, 1)
})

async function listen(context: TestContext, server: Server): Promise<string> {
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve))
  context.after(() => server.close())
  const address = server.address()
  assert(typeof address === 'object' && address !== null)
  return `http://127.0.0.1:${address.port}`
}

test('source-health: over real sockets a black hole is left for the next mirror, and not asked again', async (context) => {
  const sockets = new Set<{ destroy(): void }>()
  let connections = 0
  const hole = createServer((socket) => {
    connections++
    sockets.add(socket)
    socket.on('error', () => undefined)
  })
  context.after(() => {
    for (const socket of sockets) socket.destroy()
  })
  const crawl = createHttpServer((_, response) => {
    response.writeHead(200, { 'content-length': BYTES.byteLength })
    response.write(BYTES.subarray(0, 5_000)) // and that is all for a long time
  })
  context.after(() => crawl.closeAllConnections())
  const good = createHttpServer((incoming, response) => {
    const from = Number(/bytes=(\d+)-/.exec(incoming.headers.range ?? '')?.[1] ?? 0)
    if (from > 0) response.writeHead(206, { 'content-range': `bytes ${from}-999999/1000000` })
    response.end(BYTES.subarray(from))
  })
  context.after(() => good.closeAllConnections())
  const clock = systemClock()
  const mirrors = await Promise.all(
    [hole, crawl, good].map(async (server) =>
      openHttpSource({ clock }, { url: await listen(context, server), kind: 'mirror' }),
    ),
  )
  context.after(() => Promise.all(mirrors.map((mirror) => mirror[Symbol.asyncDispose]())))
  const { health, fetch } = setUp(mirrors, clock)
  await fetch()
  const states = mirrors.map((mirror) => health.report(mirror, clock.nowMs()).state)
  assert.deepEqual(states.slice(0, 1).concat(states.slice(2)), ['suspended', 'ok'])
  const before = connections
  for (let times = 0; times < 3; times++) await fetch()
  assert.equal(connections, before)
})

test('source-health: what a dying mirror began, servers of other habits end', async (context) => {
  const others: Record<string, RequestListener> = {
    'another ETag': (incoming, response) => {
      const from = Number(/bytes=(\d+)-/.exec(incoming.headers.range ?? '')?.[1] ?? 0)
      assert.equal(incoming.headers['if-range'], undefined)
      response
        .writeHead(206, { etag: '"5f-62"', 'content-range': `bytes ${from}-999999/1000000` })
        .end(BYTES.subarray(from))
    },
    'no Range': (_, response) => void response.end(BYTES),
    gzip: (_, response) =>
      void response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(BYTES)),
  }
  for (const [name, listener] of Object.entries(others)) {
    const dying = createHttpServer((_, response) => {
      response.writeHead(200, { etag: '"one"', 'content-length': BYTES.byteLength })
      response.write(BYTES.subarray(0, 400_000), () => response.destroy())
    })
    const other = createHttpServer(listener)
    for (const server of [dying, other]) context.after(() => server.closeAllConnections())
    const clock = systemClock()
    const mirrors = await Promise.all(
      [dying, other].map(async (server) =>
        openHttpSource({ clock }, { url: await listen(context, server), kind: 'mirror' }),
      ),
    )
    context.after(() => Promise.all(mirrors.map((mirror) => mirror[Symbol.asyncDispose]())))
    const { fetch, health } = setUp(mirrors, clock)
    await fetch()
    const [, second = assert.fail()] = mirrors
    assert.equal(health.report(second, clock.nowMs()).state, 'ok', name)
  }
})

test('source-health: a mirror whose pages say 200 to everything is suspended, the next one used', async (context) => {
  const page = createHttpServer(
    (_, response) => void response.end('<html>Welcome to nginx!</html>'),
  )
  const good = createHttpServer((_, response) => void response.end(BYTES))
  for (const server of [page, good]) context.after(() => server.closeAllConnections())
  const clock = systemClock()
  const mirrors = await Promise.all(
    [page, good].map(async (server) =>
      openHttpSource({ clock }, { url: await listen(context, server), kind: 'mirror' }),
    ),
  )
  context.after(() => Promise.all(mirrors.map((mirror) => mirror[Symbol.asyncDispose]())))
  const { health, fetch, store } = setUp(mirrors, clock)
  await fetch()
  const [first = assert.fail()] = mirrors
  assert.match(health.report(first, clock.nowMs()).reason ?? '', /announced 30 bytes of 1000000/)
  assert.deepEqual(store.stats(), { count: 1, bytes: BYTES.byteLength })
  assert.equal(sha256((await store.read(REF.digest, 2_000_000)) ?? ''), REF.digest)
})
