/** What `mesh mirror test` says of servers that are mirrors, and of servers that are none. */
import assert from 'node:assert/strict'
import type { RequestListener } from 'node:http'
import { test, type TestContext } from 'node:test'
import { gzipSync } from 'node:zlib'
import { systemClock } from '../../src/base/clock.ts'
import { systemRandom } from '../../src/base/random.ts'
import { testMirrors } from '../../src/node/mirror/test-mirror.ts'
import { casRoutes } from '../../src/store/http-routes.ts'
import { openMemoryBlobStore } from '../../src/store/memory-blob-store.ts'
import { sha256, type Digest } from '../../src/wire/digest.ts'
import type { MirrorTest } from '../../src/wire/mirrors.ts'
import { bytesOf, text } from '../contract/blob-store.ts'
import { log, never, serve } from '../store/support.ts'

const BYTES = bytesOf(100_000)
const DIGEST = sha256(BYTES)

async function tryOut(
  context: TestContext,
  listener: RequestListener,
  digest?: Digest,
): Promise<MirrorTest> {
  const store = openMemoryBlobStore()
  await store.put(BYTES)
  await store.put(text(''))
  const urls = [`${await serve(context, listener)}/some/place`]
  const deps = { clock: systemClock(), random: systemRandom(), store, urls }
  const [only = assert.fail()] = await testMirrors(
    deps,
    digest === undefined ? {} : { digest },
    never,
  )
  return only
}

/** Has the one blob at the path that `where` gives for it. */
const serving =
  (where: string, answer: RequestListener): RequestListener =>
  (incoming, response) =>
    incoming.url === where ? answer(incoming, response) : void response.writeHead(404).end()

const SHARDED = `/some/place/cas/sha256/${DIGEST.slice(0, 2)}/${DIGEST}`

test('test-mirror: a node is a good mirror, with a blob that this one has or that is named', async (context) => {
  const store = openMemoryBlobStore()
  await store.put(BYTES)
  const routes = casRoutes({ store, actions: { find: async () => undefined }, log })
  const listener: RequestListener = (incoming, response) => {
    incoming.url = incoming.url?.replace('/some/place', '')
    void routes(incoming, response)
  }
  for (const digest of [undefined, DIGEST]) {
    const { ok, layout, range, blob, problems, bytesPerS } = await tryOut(context, listener, digest)
    assert.deepEqual(
      { ok, layout, range, blob, problems },
      {
        ok: true,
        layout: 'sharded',
        range: true,
        blob: { digest: DIGEST, size: 100_000 },
        problems: [],
      },
    )
    assert((bytesPerS ?? 0) > 0)
  }
  const absent = await tryOut(context, listener, sha256('absent'))
  assert.deepEqual([absent.ok, absent.problems], [false, ['does not have the blob']])
})

test('test-mirror: an empty mirror is fine, of another layout too, and one that ignores Range', async (context) => {
  const empty = await tryOut(context, (_, response) => void response.writeHead(404).end())
  assert.deepEqual([empty.ok, empty.layout, empty.blob], [true, null, null])
  const flat = await tryOut(
    context,
    serving(`/some/place/cas/${DIGEST}`, (_, response) => void response.end(BYTES)),
  )
  assert.deepEqual([flat.ok, flat.layout, flat.range], [true, 'flat', false])
})

test('test-mirror: what is wrong with a server is told', async (context) => {
  const wrong = Buffer.from(BYTES)
  wrong[99_999] = (wrong[99_999] ?? 0) ^ 1
  const servers: [string, RequestListener, RegExp, boolean][] = [
    [
      'sends other bytes',
      serving(SHARDED, (_, response) => void response.end(wrong)),
      /sends [0-9a-f]{64} as /,
      true,
    ],
    [
      'sends another part',
      serving(SHARDED, (incoming, response) => {
        if (incoming.headers.range !== undefined) response.writeHead(206)
        response.end(incoming.headers.range === undefined ? BYTES : BYTES.subarray(7, 11))
      }),
      /sends another part/,
      true,
    ],
    [
      'has a page for everything',
      (_, response) => void response.end('<html>'),
      /answers 200, not 404, for a blob that nobody has/,
      true,
    ],
    [
      'compresses',
      serving(
        SHARDED,
        (_, response) =>
          void response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(BYTES)),
      ),
      /compresses/,
      false,
    ],
    ['fails', (_, response) => void response.writeHead(500).end(), /answers 500, not 404/, false],
    ['breaks off', (_, response) => void response.destroy(), /other side closed|ECONNRESET/, false],
  ]
  for (const [name, listener, expected, isWrong] of servers) {
    const { ok, problems, wrongBytes } = await tryOut(context, listener)
    assert.equal(ok, false, name)
    assert.match(problems.join('\n'), expected, name)
    assert.equal(wrongBytes, isWrong, name)
  }
})
