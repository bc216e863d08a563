/** Blobs over HTTP: our own routes, and servers that do what servers do. */
import assert from 'node:assert/strict'
import type { RequestListener } from 'node:http'
import { test, type TestContext } from 'node:test'
import { gzipSync } from 'node:zlib'
import { request } from 'undici'
import { systemClock, type Clock } from '../../src/base/clock.ts'
import type { BlobStore } from '../../src/store/blob-store.ts'
import { casRoutes } from '../../src/store/http-routes.ts'
import { openHttpSource, type HttpSource } from '../../src/store/http-source.ts'
import { openMemoryBlobStore } from '../../src/store/memory-blob-store.ts'
import { encodeBatchRequest } from '../../src/wire/cas-messages.ts'
import { digestBytes, sha256, type BlobRef } from '../../src/wire/digest.ts'
import { bytesOf, readAll, refOf, text, toArray } from '../contract/blob-store.ts'
import { log, never, serve, StepClock } from './support.ts'

function serveStore(context: TestContext, store: BlobStore): Promise<string> {
  const routes = casRoutes({ store, actions: { find: async () => undefined }, log })
  return serve(context, (incoming, response) => {
    const handle = async (): Promise<void> => {
      if (!(await routes(incoming, response))) response.writeHead(418).end()
    }
    void handle()
  })
}

function source(
  context: TestContext,
  url: string,
  kind: 'peer' | 'mirror' = 'peer',
  clock: Clock = systemClock(),
): HttpSource {
  const opened = openHttpSource({ clock }, { url, kind })
  context.after(() => opened[Symbol.asyncDispose]())
  return opened
}

const fetchAll = async (
  from: HttpSource,
  ref: BlobRef,
  offsetBytes = 0,
): Promise<Buffer | undefined> => readAll(await from.fetch(ref, { offsetBytes, signal: never }))

test('http-routes: answers as a mirror does', async (context) => {
  const store = openMemoryBlobStore()
  const bytes = bytesOf(200_000)
  const { digest } = await store.put(bytes)
  const url = await serveStore(context, store)
  const get = async (
    path: string,
    headers: Record<string, string> = {},
    method: 'GET' | 'HEAD' | 'PUT' | 'POST' = 'GET',
  ) => {
    const response = await request(`${url}${path}`, { method, headers })
    return { ...response, bytes: Buffer.from(await response.body.arrayBuffer()) }
  }
  for (const path of [
    `/cas/${digest}`,
    `/cas/sha256/${digest.slice(0, 2)}/${digest}`,
    `/cas/${digest}?x=1`,
  ]) {
    const whole = await get(path)
    assert.equal(whole.statusCode, 200)
    assert.deepEqual(whole.bytes, bytes)
    assert.equal(whole.headers['etag'], `"${digest}"`)
    assert.equal(whole.headers['cache-control'], 'public, max-age=31536000, immutable')
  }
  const head = await get(`/cas/${digest}`, {}, 'HEAD')
  assert.deepEqual(
    [head.statusCode, head.headers['content-length'], head.bytes.length],
    [200, '200000', 0],
  )

  const ranges: [string, number, number, number][] = [
    ['bytes=0-0', 206, 0, 1],
    ['bytes=100-199', 206, 100, 200],
    ['bytes=199999-', 206, 199_999, 200_000],
    ['bytes=-5', 206, 199_995, 200_000],
    ['bytes=-900000', 206, 0, 200_000],
    ['bytes=5-900000', 206, 5, 200_000],
    ['bytes=0-1,5-6', 200, 0, 200_000],
    ['bytes=9-5', 200, 0, 200_000],
    ['lines=1-2', 200, 0, 200_000],
  ]
  for (const [range, status, start, end] of ranges) {
    const part = await get(`/cas/${digest}`, { range })
    assert.equal(part.statusCode, status, range)
    assert.deepEqual(part.bytes, bytes.subarray(start, end), range)
    if (status === 206)
      assert.equal(part.headers['content-range'], `bytes ${start}-${end - 1}/200000`)
  }
  for (const range of ['bytes=200000-', 'bytes=-0']) {
    const beyond = await get(`/cas/${digest}`, { range })
    assert.deepEqual([beyond.statusCode, beyond.headers['content-range']], [416, 'bytes */200000'])
  }
  assert.equal(
    (await get(`/cas/${digest}`, { range: 'bytes=0-0', 'if-range': '"other"' })).statusCode,
    200,
  )
  assert.equal(
    (await get(`/cas/${digest}`, { 'if-none-match': `W/"x", "${digest}"` })).statusCode,
    304,
  )

  const statuses: [string, number][] = [
    [`/cas/${sha256('absent')}`, 404],
    [`/cas/sha256/00/${digest}`, 400],
    [`/cas/${digest.toUpperCase()}`, 400],
    [`/cas/${digest}0`, 400],
    ['/cas/../../etc/passwd', 418],
    ['/cas/%2f%2e%2e%2fetc%2fpasswd', 400],
    [`/ac/${sha256('absent')}`, 404],
    ['/elsewhere', 418],
  ]
  for (const [path, status] of statuses) assert.equal((await get(path)).statusCode, status, path)
  assert.equal((await get(`/cas/${digest}`, {}, 'PUT')).statusCode, 405)
  assert.equal((await get('/cas/batch', {}, 'POST')).statusCode, 400)
})

function size(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}

test('http-routes: gives many small blobs at once', async (context) => {
  const store = openMemoryBlobStore()
  const small = await store.put(text('small'))
  const empty = await store.put(text(''))
  const big = await store.put(bytesOf(300_000))
  const url = await serveStore(context, store)
  const digests = [small.digest, sha256('absent'), big.digest, empty.digest]
  const { body, statusCode } = await request(`${url}/cas/batch`, {
    method: 'POST',
    body: encodeBatchRequest(digests),
  })
  assert.equal(statusCode, 200)
  assert.deepEqual(
    Buffer.from(await body.arrayBuffer()),
    Buffer.concat([
      digestBytes(small.digest),
      size(5),
      text('small'),
      digestBytes(empty.digest),
      size(0),
    ]),
  )
  for (const payload of [Buffer.alloc(100_000), Buffer.of(0x80), Buffer.from('x')]) {
    const refused = await request(`${url}/cas/batch`, { method: 'POST', body: payload })
    await refused.body.dump()
    assert(refused.statusCode === 400 || refused.statusCode === 413)
  }
})

test('http-routes: a reader that leaves does not disturb others', async (context) => {
  const store = openMemoryBlobStore()
  const bytes = bytesOf(20_000_000)
  const ref = await store.put(bytes)
  const url = await serveStore(context, store)
  const response = await request(`${url}/cas/${ref.digest}`)
  response.body.destroy()
  assert.deepEqual(await fetchAll(source(context, url), ref), bytes)
})

test('http-routes: a slow reader does not grow the memory of the server', async (context) => {
  const store = openMemoryBlobStore()
  const ref = await store.put(bytesOf(50_000_000))
  let readBytes = 0
  const counting: BlobStore = {
    ...store,
    async open(digest, range) {
      const reader = (await store.open(digest, range)) ?? assert.fail()
      return {
        sizeBytes: reader.sizeBytes,
        [Symbol.asyncDispose]: () => reader[Symbol.asyncDispose](),
        async *[Symbol.asyncIterator]() {
          for await (const piece of reader) {
            readBytes += piece.byteLength
            yield piece
          }
        },
      }
    },
  }
  const { body } = await request(`${await serveStore(context, counting)}/cas/${ref.digest}`)
  for (let turn = 0; turn < 2000; turn++) await new Promise(setImmediate)
  assert(readBytes < 20_000_000, `${readBytes} bytes were read ahead`)
  assert.equal((await body.bytes()).byteLength, 50_000_000)
})

test('http-source: fetches from peers, whole, from an offset and in batches', async (context) => {
  const store = openMemoryBlobStore()
  const bytes = bytesOf(1_000_000)
  const ref = await store.put(bytes)
  const from = source(context, await serveStore(context, store))
  assert.deepEqual(await fetchAll(from, ref), bytes)
  assert.deepEqual(await fetchAll(from, ref, 999_999), bytes.subarray(999_999))
  assert.deepEqual(await fetchAll(from, ref, 1_000_000), Buffer.alloc(0))
  assert.equal(await fetchAll(from, refOf(text('absent'))), undefined)
  const empty = await store.put(text(''))
  assert.deepEqual(await fetchAll(from, empty), Buffer.alloc(0))

  const refs = []
  for (let at = 0; at < 2500; at++) refs.push(await store.put(text(`blob ${at}`)))
  const got = await toArray(
    from.fetchMany?.([...refs, refOf(text('absent'))], { signal: never }) ?? assert.fail(),
  )
  assert.equal(got.length, 2500)
  for (const { ref: one, bytes: content } of got) assert.deepEqual(refOf(content), one)
})

test('http-source: finds either layout of a mirror, and remembers it', async (context) => {
  const bytes = bytesOf(1000)
  const ref = refOf(bytes)
  for (const layout of [
    `/some/dir/cas/sha256/${ref.digest.slice(0, 2)}/${ref.digest}`,
    `/some/dir/cas/${ref.digest}`,
  ]) {
    const asked: string[] = []
    const url = await serve(context, (incoming, response) => {
      asked.push(incoming.url ?? '')
      if (incoming.url === layout) response.end(bytes)
      else response.writeHead(404).end('no')
    })
    const from = source(context, `${url}/some/dir/`, 'mirror')
    assert(!('fetchMany' in from) || !from.fetchMany)
    assert.deepEqual(await fetchAll(from, ref), bytes)
    asked.length = 0
    assert.deepEqual(await fetchAll(from, ref), bytes)
    assert.deepEqual(asked, [layout])
  }
})

test('http-source: resumes on servers that ignore ranges or compress unasked', async (context) => {
  const bytes = Buffer.concat([Buffer.alloc(400_000, 'a'), bytesOf(100_000)])
  const ref = refOf(bytes)
  const servers: Record<string, RequestListener> = {
    'ignores Range': (_, response) => void response.end(bytes),
    'ignores Range, without a length': (_, response) => {
      response.write(bytes.subarray(0, 10))
      response.end(bytes.subarray(10))
    },
    compresses: (_, response) =>
      void response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(bytes)),
    'gives a part of the compressed': (incoming, response) => {
      const zipped = gzipSync(bytes)
      if (incoming.headers.range === undefined)
        response.writeHead(200, { 'content-encoding': 'gzip' }).end(zipped)
      else
        response
          .writeHead(206, {
            'content-encoding': 'gzip',
            'content-range': `bytes 300000-${zipped.length}/${zipped.length}`,
          })
          .end(zipped.subarray(10))
    },
    'has another ETag': (_, response) =>
      void response
        .writeHead(206, { etag: '"1-2"', 'content-range': `bytes 300000-499999/500000` })
        .end(bytes.subarray(300_000)),
  }
  for (const [name, listener] of Object.entries(servers))
    assert.deepEqual(
      await fetchAll(source(context, await serve(context, listener)), ref, 300_000),
      bytes.subarray(300_000),
      name,
    )
})

test('http-source: short, long and strange answers are failures of the source', async (context) => {
  const bytes = bytesOf(100_000)
  const ref = refOf(bytes)
  const servers: Record<string, RequestListener> = {
    'announces less': (_, response) => void response.end(bytes.subarray(1)),
    'announces more': (_, response) => void response.end(Buffer.concat([bytes, bytes])),
    'sends more': (_, response) => {
      response.write(bytes)
      response.end(bytes)
    },
    'sends less': (_, response) => {
      response.write(bytes.subarray(0, 50_000))
      response.end()
    },
    'dies midway': (_, response) => {
      response.writeHead(200, { 'content-length': 100_000 })
      response.write(bytes.subarray(0, 50_000), () => response.destroy())
    },
    bombs: (_, response) =>
      void response
        .writeHead(200, { 'content-encoding': 'gzip' })
        .end(gzipSync(Buffer.alloc(50_000_000))),
    'is no gzip': (_, response) =>
      void response.writeHead(200, { 'content-encoding': 'gzip' }).end(bytes),
    'has its own encoding': (_, response) =>
      void response.writeHead(200, { 'content-encoding': 'rot13' }).end(bytes),
    fails: (_, response) => void response.writeHead(500).end('oops'),
    redirects: (_, response) =>
      void response.writeHead(302, { location: 'http://127.0.0.1:1/' }).end(),
    'gives another part': (_, response) =>
      void response
        .writeHead(206, { 'content-range': 'bytes 5-99999/100000' })
        .end(bytes.subarray(5)),
  }
  for (const [name, listener] of Object.entries(servers)) {
    const from = source(context, await serve(context, listener))
    await assert.rejects(fetchAll(from, ref), { name: 'SourceError', reason: 'failed' }, name)
  }
  await assert.rejects(fetchAll(source(context, 'http://127.0.0.1:1'), ref), { reason: 'failed' })
})

test('http-source: a server that falls silent is given up', async (context) => {
  const bytes = bytesOf(100_000)
  const silent = await serve(context, () => undefined)
  const halfway = await serve(context, (_, response) => {
    response.writeHead(200, { 'content-length': 100_000 })
    response.write(bytes.subarray(0, 1000))
  })
  for (const url of [silent, halfway]) {
    const clock = new StepClock()
    await assert.rejects(
      clock.run(fetchAll(source(context, url, 'peer', clock), refOf(bytes)), 500),
      {
        name: 'SourceError',
        reason: 'stalled',
      },
    )
  }
})

test('http-source: abort ends a request with its own reason', async (context) => {
  const url = await serve(context, () => undefined)
  const controller = new AbortController()
  const fetching = source(context, url).fetch(refOf(text('x')), {
    offsetBytes: 0,
    signal: controller.signal,
  })
  controller.abort(new Error('not needed any more'))
  await assert.rejects(fetching, /not needed any more/)
})
