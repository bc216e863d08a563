/** A mirror that gets what it lacks: over real HTTP, from upstreams that are slow, silent, or lie. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import type { RequestListener, ServerResponse } from 'node:http'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { request } from 'undici'
import { systemClock, type Clock } from '../../src/base/clock.ts'
import { MeshError } from '../../src/base/errors.ts'
import type { BlobSource } from '../../src/store/blob-source.ts'
import { openFetcher } from '../../src/store/fetcher.ts'
import { SourceHealth } from '../../src/store/fetch/source-health.ts'
import { casRoutes } from '../../src/store/http-routes.ts'
import { openHttpSource } from '../../src/store/http-source.ts'
import { openMemoryBlobStore } from '../../src/store/memory-blob-store.ts'
import { Absences } from '../../src/store/mirror/absences.ts'
import { openPullThrough } from '../../src/store/mirror/pull-through.ts'
import { encodeBatchRequest } from '../../src/wire/cas-messages.ts'
import { sha256 } from '../../src/wire/digest.ts'
import { bytesOf, refOf, text } from '../contract/blob-store.ts'
import { log, never, random, serve, StepClock, temporaryDirectory } from './support.ts'

/** A mirror in front of the sources, or of HTTP servers at these URLs. */
async function openMirror(
  context: TestContext,
  upstreams: readonly (string | BlobSource)[],
  clock: Clock = systemClock(),
) {
  const directory = temporaryDirectory()
  const store = openMemoryBlobStore()
  const health = new SourceHealth({ random })
  const sources = upstreams.map((upstream) => {
    if (typeof upstream !== 'string') return upstream
    const source = openHttpSource({ clock }, { url: upstream, kind: 'mirror' })
    context.after(() => source[Symbol.asyncDispose]())
    return source
  })
  const fetcher = openFetcher({ store, clock, log, random, health }, { mirrors: sources })
  const mirror = openPullThrough(
    {
      store,
      reserve: async () => ({ [Symbol.dispose]: () => undefined }),
      clock,
      log,
      health,
      stages: () => [async () => sources],
      obtain: (ref, signal) => fetcher.fetch(ref, { signal }),
    },
    { directory: join(directory.path, 'spool') },
  )
  context.after(async () => {
    await mirror[Symbol.asyncDispose]()
    directory[Symbol.dispose]()
  })
  const routes = casRoutes({ store: mirror, actions: { find: async () => undefined }, log })
  const url = await serve(context, (incoming, response) => void routes(incoming, response))
  return { url, store, health, mirror, sources, spool: join(directory.path, 'spool') }
}

/** An HTTP server with blobs that can be held back; counts what it is asked. */
function origin(...contents: readonly Uint8Array[]) {
  const blobs = new Map(contents.map((bytes) => [sha256(bytes) as string, bytes]))
  const state = { gets: 0, heads: 0, sentBytes: 0 }
  const held: (() => void)[] = []
  let holdAtBytes = Infinity
  const send = async (response: ServerResponse, bytes: Uint8Array, from: number): Promise<void> => {
    for (let at = from; at < bytes.byteLength; at += 65_536) {
      if (at >= holdAtBytes) await new Promise<void>((resolve) => held.push(resolve))
      const piece = bytes.subarray(at, at + 65_536)
      state.sentBytes += piece.byteLength
      if (!response.write(piece) && !response.destroyed)
        await once(response, 'drain', { signal: never }).catch(() => undefined)
    }
    response.end()
  }
  const listener: RequestListener = (incoming, response) => {
    const bytes = blobs.get(incoming.url?.split('/').at(-1) ?? '')
    if (bytes === undefined) return void response.writeHead(404).end()
    if (incoming.method === 'HEAD') {
      state.heads++
      return void response.writeHead(200, { 'content-length': bytes.byteLength }).end()
    }
    state.gets++
    const from = Number(/bytes=(\d+)-/.exec(incoming.headers.range ?? '')?.[1] ?? 0)
    response.writeHead(from > 0 ? 206 : 200, {
      'content-length': bytes.byteLength - from,
      ...(from > 0
        ? { 'content-range': `bytes ${from}-${bytes.byteLength - 1}/${bytes.byteLength}` }
        : {}),
    })
    void send(response, bytes, from)
  }
  return {
    listener,
    state,
    hold: (atBytes: number) => (holdAtBytes = atBytes),
    release() {
      holdAtBytes = Infinity
      for (const go of held.splice(0)) go()
    },
  }
}

async function get(
  url: string,
  headers: Record<string, string> = {},
): Promise<{ status: number; bytes: Buffer }> {
  const { statusCode, body } = await request(url, { headers })
  return { status: statusCode, bytes: Buffer.from(await body.arrayBuffer()) }
}

const BIG = bytesOf(3_000_000)
const BIG_REF = refOf(BIG)

test('pull-through: eight who ask for one blob cost one pull, and all of them follow it', async (context) => {
  const upstream = origin(BIG)
  upstream.hold(1_000_000)
  const { url, store, mirror, spool } = await openMirror(context, [
    await serve(context, upstream.listener),
  ])
  const bodies = await Promise.all(
    Array.from({ length: 8 }, () => request(`${url}/cas/${BIG_REF.digest}`)),
  )
  // The origin still holds two thirds back: what is there has reached each reader.
  const firsts = await Promise.all(
    bodies.map(async ({ body }) => {
      const iterator = body[Symbol.asyncIterator]()
      const first: unknown = (await iterator.next()).value
      return { iterator, first }
    }),
  )
  assert.equal(store.stats().count, 0)
  upstream.release()
  for (const { iterator, first } of firsts) {
    const pieces = [first]
    for (let next = await iterator.next(); next.done !== true; next = await iterator.next())
      pieces.push(next.value)
    assert.deepEqual(
      Buffer.concat(pieces.map((piece) => (piece instanceof Uint8Array ? piece : assert.fail()))),
      BIG,
    )
  }
  assert.deepEqual(upstream.state, { gets: 1, heads: 1, sentBytes: BIG.byteLength })
  assert.equal(await store.sizeOf(BIG_REF.digest), BIG.byteLength)
  assert.deepEqual(
    (await get(`${url}/cas/${BIG_REF.digest}`, { range: 'bytes=-5' })).bytes,
    BIG.subarray(-5),
  )
  assert.equal(upstream.state.gets, 1)
  assert.deepEqual(readdirSync(spool), [])
  const { hits, misses, absent, bytesIn, bytesOut, inFlight } = mirror.stats()
  assert.deepEqual(
    { hits, misses, absent, bytesIn, bytesOut, inFlight },
    {
      hits: 1,
      misses: 8,
      absent: 0,
      bytesIn: BIG.byteLength,
      bytesOut: 8 * BIG.byteLength + 5,
      inFlight: 0,
    },
  )
})

test('pull-through: HEAD tells the size and moves nothing; ranges and small blobs are pulled whole', async (context) => {
  const small = text('a small one')
  const upstream = origin(BIG, small, text(''))
  const { url, store } = await openMirror(context, [await serve(context, upstream.listener)])
  const head = await request(`${url}/cas/${BIG_REF.digest}`, { method: 'HEAD' })
  assert.deepEqual([head.statusCode, head.headers['content-length']], [200, '3000000'])
  await head.body.dump()
  assert.equal(upstream.state.gets, 0)
  const part = await get(`${url}/cas/${BIG_REF.digest}`, { range: 'bytes=1000000-1000099' })
  assert.deepEqual([part.status, part.bytes], [206, BIG.subarray(1_000_000, 1_000_100)])
  assert.deepEqual(upstream.state, { gets: 1, heads: 1, sentBytes: BIG.byteLength })
  assert.deepEqual((await get(`${url}/cas/${sha256(small)}`)).bytes, small)
  assert.deepEqual(await get(`${url}/cas/${sha256('')}`), { status: 200, bytes: Buffer.alloc(0) })
  assert.equal(store.stats().count, 3)
})

test('pull-through: a batch is pulled through, absent ones are left out', async (context) => {
  const contents = Array.from({ length: 40 }, (_, at) => text(`blob ${at}`))
  const upstream = origin(...contents)
  const { url, store } = await openMirror(context, [await serve(context, upstream.listener)])
  const { body } = await request(`${url}/cas/batch`, {
    method: 'POST',
    body: encodeBatchRequest([sha256('absent'), ...contents.map((bytes) => sha256(bytes))]),
  })
  const bytes = Buffer.from(await body.arrayBuffer())
  assert.equal(
    bytes.byteLength,
    contents.reduce((sum, { byteLength }) => sum + 40 + byteLength, 0),
  )
  assert.equal(store.stats().count, 40)
})

test('pull-through: when upstream lies the reader is cut off, nothing is kept, and the liar is banned', async (context) => {
  const wrong = Buffer.from(BIG)
  wrong[2_900_000] = (wrong[2_900_000] ?? 0) ^ 1
  const liar = origin(wrong)
  const lie: RequestListener = (incoming, response) => {
    incoming.url = incoming.url?.replace(BIG_REF.digest, sha256(wrong))
    liar.listener(incoming, response)
  }
  // A part of what is wrong ends as little as the whole does.
  for (const range of [{}, { range: 'bytes=0-999' }]) {
    const { url, store, spool, sources, health } = await openMirror(context, [
      await serve(context, lie),
    ])
    await assert.rejects(get(`${url}/cas/${BIG_REF.digest}`, range))
    // It is not asked again while it is banned.
    const before = liar.state.gets
    const { status } = await get(`${url}/cas/${BIG_REF.digest}`)
    assert(status === 404 || status === 503, `${status}`)
    assert(liar.state.gets <= before + 1)
    assert.deepEqual(store.stats(), { count: 0, bytes: 0 })
    const [source = assert.fail()] = sources
    assert(health.isBanned(source, systemClock().nowMs()))
    assert.match(health.report(source, systemClock().nowMs()).reason ?? '', /wrong bytes/)
    assert.deepEqual(readdirSync(spool), [])
  }
})

test('pull-through: the honest source gives it after the liar, whoever asks next', async (context) => {
  const wrong = Buffer.alloc(BIG.byteLength)
  const liar = origin(wrong)
  const honest = origin(BIG)
  const { url, store } = await openMirror(context, [
    await serve(context, (incoming, response) => {
      incoming.url = incoming.url?.replace(BIG_REF.digest, sha256(wrong))
      liar.listener(incoming, response)
    }),
    await serve(context, honest.listener),
  ])
  await assert.rejects(get(`${url}/cas/${BIG_REF.digest}`))
  assert.deepEqual((await get(`${url}/cas/${BIG_REF.digest}`)).bytes, BIG)
  assert.equal(store.stats().count, 1)
  assert.equal(honest.state.gets, 1)
})

test('pull-through: an upstream that dies midway is continued by another at the same byte', async (context) => {
  const dying: RequestListener = (incoming, response) => {
    response.writeHead(200, { 'content-length': BIG.byteLength })
    if (incoming.method === 'HEAD') return void response.end()
    response.write(BIG.subarray(0, 1_000_000), () => response.destroy())
  }
  const other = origin(BIG)
  const { url } = await openMirror(context, [
    await serve(context, dying),
    await serve(context, other.listener),
  ])
  assert.deepEqual((await get(`${url}/cas/${BIG_REF.digest}`)).bytes, BIG)
  assert(other.state.sentBytes < BIG.byteLength, `${other.state.sentBytes}`)
})

test('pull-through: an error page with status 200 is no blob', async (context) => {
  const page = Buffer.from('<html>It works!</html>')
  const { url, store } = await openMirror(context, [
    await serve(
      context,
      (_, response) =>
        void response
          .writeHead(200, { 'content-type': 'text/html', 'content-length': page.byteLength })
          .end(page),
    ),
  ])
  const { status } = await get(`${url}/cas/${BIG_REF.digest}`)
  assert.equal(status, 503)
  assert.equal(store.stats().count, 0)
})

test('pull-through: what nobody has is asked for ever more seldom', async (context) => {
  const clock = new StepClock()
  const upstream = { asked: 0 }
  const source: BlobSource = {
    name: 'upstream',
    kind: 'mirror',
    fetch: async () => undefined,
    sizeOf: async () => {
      upstream.asked++
      return undefined
    },
  }
  const { mirror } = await openMirror(context, [source], clock)
  const digest = sha256('absent')
  const askedAtMs: number[] = []
  for (let ms = 0; ms < 600_000; ms += 500) {
    const before = upstream.asked
    assert.equal(await mirror.sizeOf(digest), undefined)
    if (upstream.asked > before) askedAtMs.push(clock.nowMs())
    clock.step(500)
  }
  const gaps = askedAtMs.slice(1).map((at, index) => at - (askedAtMs[index] ?? 0))
  assert.deepEqual(gaps.slice(0, 6), [5_000, 10_000, 20_000, 40_000, 60_000, 60_000])
})

test('absences: a bounded number is remembered', () => {
  const absences = new Absences()
  for (let at = 0; at < 100_500; at++) absences.add(sha256(`absent ${at}`), 0)
  assert.equal(absences.count, 100_000)
  assert(!absences.has(sha256('absent 0'), 1))
  assert(absences.has(sha256('absent 100499'), 1))
})

test('pull-through: a dead upstream costs a quarter of a second at most, for misses too', async (context) => {
  const clock = new StepClock()
  const silent: BlobSource & { asked: number } = {
    name: 'black hole',
    kind: 'mirror',
    asked: 0,
    fetch: (_, { signal }) =>
      new Promise((_resolve, reject) =>
        signal.addEventListener('abort', () => reject(signal.reason), { once: true }),
      ),
    async sizeOf(_, { signal }) {
      this.asked++
      await new Promise((_resolve, reject) =>
        signal.addEventListener('abort', () => reject(signal.reason), { once: true }),
      )
      return undefined
    },
  }
  const other: BlobSource = {
    name: 'other',
    kind: 'mirror',
    fetch: async (ref) =>
      (async function* () {
        yield BIG.subarray(0, ref.size)
      })(),
    sizeOf: async (digest) => (digest === BIG_REF.digest ? BIG.byteLength : undefined),
  }
  const { mirror } = await openMirror(context, [silent, other], clock)
  await clock.run(mirror.sizeOf(BIG_REF.digest))
  assert(clock.nowMs() <= 300, `${clock.nowMs()} ms`)
  // It is known to be dead: a miss waits for it no longer than for a hedge.
  const startedAtMs = clock.nowMs()
  assert.equal(await clock.run(mirror.sizeOf(sha256('absent'))), undefined)
  assert(clock.nowMs() - startedAtMs <= 300, `${clock.nowMs() - startedAtMs} ms`)
})

test('pull-through: a full disk is told, and nothing is left of the pull', async (context) => {
  const upstream = origin(BIG)
  const { url, store, spool } = await openMirror(context, [await serve(context, upstream.listener)])
  const refuse = async (): Promise<never> => {
    throw new MeshError('MESH0503', 'full')
  }
  store.put = refuse
  store.putFile = refuse
  await assert.rejects(get(`${url}/cas/${BIG_REF.digest}`))
  const small = text('small')
  const other = await openMirror(context, [await serve(context, origin(small).listener)])
  other.store.put = refuse
  const answer = await request(`${other.url}/cas/${sha256(small)}`)
  assert.deepEqual([answer.statusCode, answer.headers['retry-after']], [503, '5'])
  await answer.body.dump()
  assert.deepEqual(readdirSync(spool), [])
})

test('pull-through: a reader that leaves does not end the pull for others', async (context) => {
  const upstream = origin(BIG)
  upstream.hold(500_000)
  const { url, store } = await openMirror(context, [await serve(context, upstream.listener)])
  const first = await request(`${url}/cas/${BIG_REF.digest}`)
  first.body.on('error', () => undefined)
  const second = get(`${url}/cas/${BIG_REF.digest}`)
  first.body.destroy()
  upstream.release()
  assert.deepEqual((await second).bytes, BIG)
  assert.equal(upstream.state.gets, 1)
  assert.equal(store.stats().count, 1)
})
