/** The three kinds of mirror, with real processes: a static directory, nginx in front of a node, a mirror node. */
import assert from 'node:assert/strict'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { request } from 'undici'
import { z } from 'zod'
import { lastJson } from '../../scripts/cluster.ts'
import { cidOf, parseCid, sha256, type Digest } from '../../src/wire/digest.ts'
import { MirrorTest, MirrorView } from '../../src/wire/mirrors.ts'
import { decodeSignedResult, openResult } from '../../src/wire/result.ts'
import { bytesOf } from '../contract/blob-store.ts'
import { openMesh, problem, until, type Daemon, type Desk, type Mesh } from './meshes.ts'
import { startNginx, withoutNginx } from './nginx.ts'

const Exported = z.strictObject({
  directory: z.string(),
  blobs: z.strictObject({ written: z.number(), present: z.number(), bytes: z.number() }),
  chunkLists: z.number(),
  results: z.strictObject({ written: z.number(), absent: z.number() }),
})

const Submitted = z.object({ request: z.string() })

const BIG = bytesOf(9_000_000)
const BIG_DIGEST = sha256(BIG)

/** A tree of all that trees have; the same in every desk. */
function writeTree(desk: Desk): void {
  const at = (path: string): string => join(desk.directory, path)
  mkdirSync(at('tree/sub/empty'), { recursive: true })
  writeFileSync(at('tree/big'), BIG)
  writeFileSync(at('tree/none'), '')
  writeFileSync(at('tree/sub/tool'), '#!/bin/sh\n')
  chmodSync(at('tree/sub/tool'), 0o755)
  writeFileSync(at('tree/sub/again'), '#!/bin/sh\n')
  symlinkSync('big', at('tree/link'))
}

async function put(desk: Desk, path: string): Promise<string> {
  const ended = await desk.mesh('put', path)
  assert.equal(ended.code, 0, ended.stderr)
  return ended.stdout.trim()
}

/** Paths of the blobs of a mirror, below its directory. */
function blobsIn(directory: string): string[] {
  return readdirSync(join(directory, 'cas'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.name.endsWith('.chunks'))
    .map((entry) => join(entry.parentPath, entry.name))
}

/** What a daemon counts. */
async function metric(daemon: Daemon, line: string): Promise<number> {
  const { body } = await request(`${daemon.file.http}/metrics`)
  const found = (await body.text()).split('\n').find((text) => text.startsWith(`${line} `))
  return Number(found?.split(' ').at(-1) ?? assert.fail(`no ${line}`))
}
const sentBytes = (daemon: Daemon): Promise<number> =>
  metric(daemon, 'mesh_transfer_bytes{direction="sent",via="peer"}')

interface Got {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly bytes: Buffer
}

async function get(
  url: string,
  headers: Record<string, string> = {},
  method: 'GET' | 'HEAD' | 'PUT' | 'POST' | 'DELETE' = 'GET',
): Promise<Got> {
  const response = await request(url, { method, headers })
  return {
    status: response.statusCode,
    headers: response.headers,
    bytes: Buffer.from(await response.body.arrayBuffer()),
  }
}

const sharded = (digest: Digest): string => `/cas/sha256/${digest.slice(0, 2)}/${digest}`

/** What every mirror in nginx answers, whatever is behind it. */
async function answersLikeAMirror(url: string): Promise<void> {
  for (const path of [`/cas/${BIG_DIGEST}`, sharded(BIG_DIGEST)]) {
    const whole = await get(`${url}${path}`, { 'accept-encoding': 'gzip, br' })
    assert.equal(whole.status, 200, path)
    assert(whole.bytes.equals(BIG), path)
    assert.equal(whole.headers['content-encoding'], undefined)
    assert.match(String(whole.headers['cache-control']), /immutable/)
    // Across the border of two slices of the cache.
    const part = await get(`${url}${path}`, { range: 'bytes=4194300-4194309' })
    assert.deepEqual(
      [part.status, part.headers['content-range'], part.bytes],
      [206, 'bytes 4194300-4194309/9000000', BIG.subarray(4_194_300, 4_194_310)],
    )
    const rest = await get(`${url}${path}`, { range: 'bytes=8999999-' })
    assert.deepEqual([rest.status, rest.bytes], [206, BIG.subarray(8_999_999)])
    const head = await get(`${url}${path}`, {}, 'HEAD')
    assert.deepEqual(
      [head.status, head.headers['content-length'], head.bytes.byteLength],
      [200, '9000000', 0],
    )
  }
  assert.deepEqual((await get(`${url}/cas/${sha256('')}`)).status, 200)
  for (const method of ['PUT', 'POST', 'DELETE'] as const)
    assert.equal((await get(`${url}/cas/${BIG_DIGEST}`, {}, method)).status, 405, method)
  for (const path of [
    `/cas/${sha256('absent')}`,
    sharded(sha256('absent')),
    `/cas/sha256/00/${BIG_DIGEST}`,
    `/cas/${BIG_DIGEST.toUpperCase()}`,
    '/cas/',
    '/cas/sha256/',
    '/',
    '/cas/../../etc/passwd',
  ]) {
    const absent = await get(`${url}${path}`)
    if (path === `/cas/sha256/00/${BIG_DIGEST}` && absent.status === 200) continue // a cache looks at the name alone
    assert([400, 404].includes(absent.status), `${absent.status} for ${path}`)
    assert.doesNotMatch(String(absent.headers['cache-control']), /immutable/)
  }
}

test('mirror: an exported directory, behind stock nginx', { timeout: 180_000 }, async (t) => {
  await using mesh = await openMesh(t)
  const origin = await mesh.start({ name: 'origin', role: 'root,worker,store' })
  const desk = mesh.desk(origin)
  writeTree(desk)
  const cid = await put(desk, 'tree')
  const place = join(mesh.directory, 'mirror')
  const exported = async (...args: readonly string[]) => {
    const ended = await desk.mesh('mirror', 'export', place, ...args, '--json')
    assert.equal(ended.code, 0, ended.stdout)
    return Exported.parse(lastJson(ended))
  }

  await t.test('mirror: export writes each blob of a tree once, whole and readable', async () => {
    const first = await exported(cid)
    // Three directories, and big, none, and one file that stands under two names.
    assert.deepEqual([first.blobs.written, first.blobs.present], [6, 0])
    const files = blobsIn(place)
    assert.equal(files.length, 6)
    for (const path of files) {
      assert.equal(sha256(readFileSync(path)), path.split('/').at(-1))
      assert.equal(statSync(path).mode & 0o777, 0o644)
    }
    assert.deepEqual(
      readdirSync(place).filter((name) => name.startsWith('.')),
      [],
    )
  })

  await t.test(
    'mirror: an export is repeated for nothing, and mends what is cut short',
    async () => {
      const again = await exported(cid)
      assert.deepEqual([again.blobs.written, again.blobs.present], [0, 6])
      truncateSync(join(place, sharded(BIG_DIGEST)), 1000)
      const tree = join(place, sharded((parseCid(cid) ?? assert.fail()).digest))
      const damaged = readFileSync(tree)
      damaged[damaged.byteLength - 1] = (damaged.at(-1) ?? 0) ^ 1
      writeFileSync(tree, damaged)
      const mended = await exported(cid)
      assert.deepEqual([mended.blobs.written, mended.blobs.present], [2, 4])
      for (const path of blobsIn(place))
        assert.equal(sha256(readFileSync(path)), path.split('/').at(-1))
    },
  )

  await t.test('mirror: an export that is killed leaves nothing half, and goes on', async () => {
    const many = join(desk.directory, 'many')
    mkdirSync(many)
    for (let at = 0; at < 300; at++) writeFileSync(join(many, `f${at}`), bytesOf(200_000, at))
    const manyCid = await put(desk, 'many')
    const { child, ended } = desk.start('mirror', 'export', place, manyCid)
    while (blobsIn(place).length < 10) await new Promise(setImmediate)
    child.kill('SIGKILL')
    await ended
    const before = blobsIn(place).length
    for (const path of blobsIn(place))
      assert.equal(sha256(readFileSync(path)), path.split('/').at(-1))
    const { blobs } = await exported(manyCid)
    assert.equal(blobs.written + blobs.present, 301)
    assert.equal(blobsIn(place).length, 307)
    assert(before < 307, 'it was killed too late to show anything')
  })

  await t.test('mirror: a request is exported with its signed results', async () => {
    desk.write(
      'graph.mesh.toml',
      `mesh = 1\n[derivation.a]\nbuilder = "/bin/sh"\nargs = ["-c", 'echo made > $out']\n`,
    )
    const ended = await desk.mesh('submit', 'graph.mesh.toml', '--json')
    assert.equal(ended.code, 0, ended.stderr)
    const { results } = await exported(Submitted.parse(lastJson(ended)).request)
    assert.deepEqual(results, { written: 1, absent: 0 })
    const [name = ''] = readdirSync(join(place, 'ac'))
    const signed = decodeSignedResult(readFileSync(join(place, 'ac', name)))
    const { action, outputs } = openResult(signed, { countersigned: true })
    assert.equal(action, name)
    const out = outputs['out']
    assert(out?.kind === 'file' && existsSync(join(place, sharded(out.digest))))
  })

  await t.test('mirror: what cannot be exported is told', async () => {
    for (const [args, exit, code] of [
      [['mirror', 'export', place, cidOf(sha256('nowhere'))], 5, 'MESH0601'],
      [['mirror', 'export', place, 'r-nowhere'], 5, 'MESH0601'],
      [['mirror', 'export', place], 2, 'MESH0002'],
      [['mirror', 'export', join(desk.directory, 'tree/big/below'), cid], 2, 'MESH0209'],
      [['mirror', 'exprot', place, cid], 2, 'MESH0002'],
    ] as const) {
      const ended = await desk.mesh(...args, '--json')
      assert.deepEqual([ended.code, problem(ended).code], [exit, code], args.join(' '))
    }
  })

  await t.test('mirror: stock nginx serves it', { skip: withoutNginx }, async (served) => {
    await using nginx = await startNginx(mesh.directory, 'static-mirror.conf', {
      'root /srv/mesh;': `root ${place};`,
    })
    await answersLikeAMirror(nginx.url)
    const absent = await get(`${nginx.url}/cas/${sha256('absent')}`)
    assert.equal(absent.headers['cache-control'], 'no-store')
    const [name = ''] = readdirSync(join(place, 'ac'))
    const result = await get(`${nginx.url}/ac/${name}`)
    assert.deepEqual([result.status, result.headers['content-type']], [200, 'application/cbor'])
    await origin.stop()
    await served.test('mirror: a node gets the tree from it, and tells how it did', () =>
      getsFrom(mesh, nginx.url, cid),
    )
  })
})

async function getsFrom(mesh: Mesh, url: string, cid: string): Promise<void> {
  const away = await mesh.start({ name: 'away', role: 'root,store', args: ['--mirror', `${url}/`] })
  const desk = mesh.desk(away)
  const list = async () =>
    MirrorView.array().parse(lastJson(await desk.mesh('mirror', 'ls', '--json')))
  assert.deepEqual(
    (await list()).map(({ url: listed, state, asks }) => [listed, state, asks]),
    [[`${url}/`, 'untried', 0]],
  )
  const ended = await desk.mesh('get', cid, '-o', 'tree')
  assert.equal(ended.code, 0, ended.stderr)
  assert(readFileSync(join(desk.directory, 'tree/big')).equals(BIG))
  assert.equal(statSync(join(desk.directory, 'tree/sub/tool')).mode & 0o111, 0o111)
  const [view] = await list()
  assert.equal(view?.state, 'ok')
  assert(view.bytes >= BIG.byteLength && view.hits > 0 && view.hits <= view.asks)
  assert.match((await desk.mesh('mirror', 'ls')).stdout, /MIRROR +STATE +LATENCY/)
  const tried = await desk.mesh('mirror', 'test', '--json')
  assert.equal(tried.code, 0, tried.stdout)
  const [outcome] = MirrorTest.array().parse(lastJson(tried))
  assert.deepEqual(
    [outcome?.ok, outcome?.layout, outcome?.range, outcome?.wrongBytes],
    [true, 'sharded', true, false],
  )
  const absent = await desk.mesh('mirror', 'test', url, '--cid', cidOf(sha256('x')))
  assert.equal(absent.code, 75)
  assert.match(absent.stdout, /does not have the blob/)
}

test(
  'mirror: stock nginx as a cache in front of a node',
  { timeout: 120_000, skip: withoutNginx },
  async (t) => {
    await using mesh = await openMesh(t)
    const origin = await mesh.start({ name: 'origin', role: 'root,store' })
    const desk = mesh.desk(origin)
    const big = desk.write('big', BIG)
    await put(desk, big)
    await put(desk, desk.write('none', ''))
    await using nginx = await startNginx(mesh.directory, 'caching-mirror.conf', {
      'server 127.0.0.1:7420;': `server ${new URL(origin.file.http).host};`,
      '/var/cache/nginx/mesh': join(mesh.directory, 'cache'),
    })

    await t.test('mirror: eight clients at once cost the node one transfer', async () => {
      const before = await sentBytes(origin)
      const all = await Promise.all(
        Array.from({ length: 8 }, (_, at) =>
          get(`${nginx.url}${at % 2 === 0 ? `/cas/${BIG_DIGEST}` : sharded(BIG_DIGEST)}`),
        ),
      )
      for (const { status, bytes } of all) {
        assert.equal(status, 200)
        assert(bytes.equals(BIG))
      }
      assert.equal((await sentBytes(origin)) - before, BIG.byteLength)
    })

    await t.test('mirror: it answers as a mirror does, and all of it from the cache', async () => {
      const before = await sentBytes(origin)
      await answersLikeAMirror(nginx.url)
      assert.equal(await sentBytes(origin), before)
    })

    await t.test('mirror: what was absent is found soon after it is there', async () => {
      const digest = sha256('late\n')
      assert.equal((await get(`${nginx.url}/cas/${digest}`)).status, 404)
      await put(desk, desk.write('late', 'late\n'))
      await until('the blob', async () => {
        const { status, bytes } = await get(`${nginx.url}/cas/${digest}`)
        return status === 200 ? assert.equal(bytes.toString(), 'late\n') === undefined : undefined
      })
    })
  },
)

test('mirror: a node with the role mirror', { timeout: 120_000 }, async (t) => {
  await using mesh = await openMesh(t)
  const origin = await mesh.start({ name: 'origin', role: 'root,store' })
  const desk = mesh.desk(origin)
  writeTree(desk)
  const cid = await put(desk, 'tree')
  const mirror = await mesh.start({
    name: 'mirror',
    role: 'mirror',
    listen: 'none',
    args: ['--mirror', origin.file.http],
  })
  const url = mirror.file.http

  await t.test('mirror: eight clients at once cost the origin one transfer', async () => {
    const before = await sentBytes(origin)
    const all = await Promise.all(Array.from({ length: 8 }, () => get(`${url}/cas/${BIG_DIGEST}`)))
    for (const { status, bytes } of all) {
      assert.equal(status, 200)
      assert(bytes.equals(BIG))
    }
    assert.equal((await sentBytes(origin)) - before, BIG.byteLength)
    assert.equal(await metric(mirror, 'mesh_mirror_bytes{direction="in"}'), BIG.byteLength)
    assert.equal(await metric(mirror, 'mesh_mirror_bytes{direction="out"}'), 8 * BIG.byteLength)
    assert.equal(await metric(mirror, 'mesh_mirror_pulls'), 0)
  })

  await t.test('mirror: a whole tree comes through it, and again without the origin', async () => {
    const fetch = async (name: string): Promise<void> => {
      const node = await mesh.start({ name, role: 'root,store', args: ['--mirror', url] })
      const other = mesh.desk(node)
      const ended = await other.mesh('get', cid, '-o', 'tree')
      assert.equal(ended.code, 0, ended.stderr)
      assert(readFileSync(join(other.directory, 'tree/big')).equals(BIG))
      await node.stop()
    }
    await fetch('first')
    assert.equal((await get(`${url}/cas/${sha256('absent')}`)).status, 404)
    await origin.kill()
    await fetch('second')
    assert.equal((await metric(mirror, 'mesh_mirror_reads{result="absent"}')) >= 0, true)
  })

  await t.test('mirror: killed and started again it has what it had', async () => {
    await mirror.kill()
    const again = await mesh.start({
      name: 'mirror',
      role: 'mirror',
      listen: 'none',
      args: ['--mirror', origin.file.http],
    })
    assert((await get(`${again.file.http}/cas/${BIG_DIGEST}`)).bytes.equals(BIG))
    // Its upstream is away: said at once, and suspended.
    assert.equal((await get(`${again.file.http}/cas/${sha256('absent')}`)).status, 404)
    const [view] = (await mesh.desk(again).ask(MirrorView.array(), '/api/mirrors')) ?? []
    assert.equal(view?.state, 'suspended')
    assert.match(view.reason ?? '', /ECONNREFUSED/)
  })
})

test(
  'mirror: a mirror with a parent pulls from the nodes of its mesh',
  { timeout: 60_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const root = await mesh.start({ name: 'root', role: 'root' })
    const [shop, mirror] = await Promise.all([
      mesh.start({ name: 'shop', role: 'store', parents: [root] }),
      mesh.start({ name: 'mirror', role: 'mirror', listen: 'none', parents: [root] }),
    ])
    await mesh.desk(root).untilReady('shop', 'mirror')
    const desk = mesh.desk(shop)
    await put(desk, desk.write('big', BIG))
    const { status, bytes } = await get(`${mirror.file.http}/cas/${BIG_DIGEST}`)
    assert.equal(status, 200)
    assert(bytes.equals(BIG))
    assert.equal(await sentBytes(shop), BIG.byteLength)
    assert.equal((await get(`${mirror.file.http}/cas/${sha256('absent')}`)).status, 404)
  },
)
