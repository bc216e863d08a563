/** Inputs on their way to workers: between peers, around lost and damaged copies, from plain HTTP mirrors. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  createReadStream,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { test } from 'node:test'
import { cidOf, sha256, type Digest } from '../../src/wire/digest.ts'
import { freePort, openMesh, problem, submitted, until, type Daemon, type Mesh } from './meshes.ts'

const BIG_BYTES = 5 * 1024 * 1024
/** What `made` makes: no two parts of it are equal, so that what is damaged can be had nowhere else. */
const BIG = Buffer.from(
  Array.from({ length: 1_000_000 }, (_, at) => `${at + 1}\n`).join(''),
).subarray(0, BIG_BYTES)

/** `made` is built anywhere, what uses it on the worker of that number. */
const graph = (number: number, more = ''): string => `mesh = 1
[derivation.made]
builder = "/bin/sh"
args = ["-c", 'mkdir $out; seq 1000000 | head -c ${BIG_BYTES} > $out/big; echo small > $out/small']
[derivation.used]
builder = "/bin/sh"
args = ["-c", 'wc -c < $made/big > $out; cat $made/small >> $out; echo "${more}" >> $out']
inputs.made = { output = "made" }
needs = { features = ["w${number}"] }
`

const blobPath = (daemon: Daemon, digest: Digest): string =>
  join(daemon.directory, 'store', 'blob', digest.slice(0, 2), digest)

function worker(mesh: Mesh, root: Daemon, number: number): Promise<Daemon> {
  return mesh.start({
    name: `w${number}`,
    role: 'worker,store',
    listen: 'none',
    cpus: Math.min(2, number),
    parents: [root],
    args: ['--feature', `w${number}`],
  })
}

test(
  'blobs: an output goes from worker to worker, and none of it through the root',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const root = await mesh.start({ name: 'root', role: 'root' })
    const [dev] = await Promise.all([
      mesh.start({ name: 'dev', role: 'client', parents: [root] }),
      worker(mesh, root, 1),
      worker(mesh, root, 2),
    ])
    const desk = mesh.desk(dev)
    await desk.untilReady('w1', 'w2')
    // Placed by what is free: once `made` ran on w1, the bytes have to travel.
    const other = desk.follow('run', '--cpus', '2', '--', 'sleep', '2')
    await until(
      'w2 to be busy',
      async () =>
        (await desk.jobs()).some(({ attempts: [first] }) => first?.state === 'building') ||
        undefined,
    )
    const ended = await desk.mesh('submit', desk.write('graph.mesh.toml', graph(2)), '--json')
    assert.equal(ended.code, 0, ended.stderr)
    assert.equal((await other.ended).code, 0)
    assert.equal((await desk.job('made')).attempts[0]?.node, 'w1')
    assert.equal((await desk.job('used')).attempts[0]?.node, 'w2')
    const { bytes } = submitted(ended)
    assert(bytes.peer >= BIG_BYTES, `${bytes.peer} bytes from peers`)
    assert.deepEqual([bytes.root, bytes.mirror], [0, 0])
    assert(
      !existsSync(join(root.directory, 'store', 'blob')) ||
        readdirSync(join(root.directory, 'store', 'blob')).length === 0,
    )

    // A damaged copy at one of two sources is not used, and nobody gets it.
    const digest = sha256(BIG)
    const path = join(mesh.directory, 'w1', 'store', 'blob', digest.slice(0, 2), digest)
    damage(path)
    await worker(mesh, root, 4)
    await desk.untilReady('w4')
    const again = await desk.mesh(
      'submit',
      desk.write('again.mesh.toml', graph(4, 'again')),
      '--json',
      '-o',
      'again',
    )
    assert.equal(again.code, 0, again.stderr)
    assert.deepEqual(submitted(again).jobs, { built: 1, cached: 1, failed: 0, cancelled: 0 })
    assert.equal((await desk.job('used')).attempts.at(-1)?.node, 'w4')
    assert.equal(desk.read('again/used'), `${BIG_BYTES}\nsmall\nagain\n`)
    assert.equal(
      sha256(readFileSync(join(mesh.directory, 'w4', 'store', 'blob', digest.slice(0, 2), digest))),
      digest,
    )
  },
)

/** Other bytes of the same length, as a bad disk gives them. */
function damage(path: string): void {
  const bytes = readFileSync(path)
  bytes[100] = 1
  writeFileSync(path, bytes)
}

test(
  'blobs: an output whose only copy is gone is made again, a damaged one is not used',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const root = await mesh.start({ name: 'root', role: 'root' })
    const [dev, w1] = await Promise.all([
      mesh.start({ name: 'dev', role: 'client', parents: [root] }),
      worker(mesh, root, 1),
    ])
    const desk = mesh.desk(dev)
    await desk.untilReady('w1')
    const following = desk.follow('submit', desk.write('graph.mesh.toml', graph(2)), '--json')
    await desk.untilJob('made', 'done')
    await w1.kill()
    const w2 = await worker(mesh, root, 2)
    const ended = await following.ended
    assert.equal(ended.code, 0, ended.stderr)
    assert.equal(desk.read('result/used'), `${BIG_BYTES}\nsmall\n\n`)
    const made = await desk.job('made')
    assert.deepEqual(
      [made.rewinds, made.attempts.map(({ node, state }) => [node, state])],
      [
        1,
        [
          ['w1', 'done'],
          ['w2', 'done'],
        ],
      ],
    )
    const request = await desk.untilRequest('there', () => true)
    assert.match(request.notices.join(), /an output of made was lost[\s\S]*built again, 1 of 3/)
    assert.match(ended.stderr, /an output of made was lost/)

    const digest = sha256(BIG)
    damage(blobPath(w2, digest))
    await worker(mesh, root, 4)
    await desk.untilReady('w4')
    // w4 does not take the damaged copy.
    const again = await desk.mesh(
      'submit',
      desk.write('again.mesh.toml', graph(4, 'again')),
      '--json',
    )
    assert.equal(again.code, 0, again.stderr)
    assert.match(again.stderr, /an output of made was lost[\s\S]*sent wrong bytes/)
  },
)

/** A directory as a web server has it, with one blob in it. */
function mirrorDirectory(directory: string, text: string): void {
  const digest = sha256(text)
  mkdirSync(join(directory, 'cas', 'sha256', digest.slice(0, 2)), { recursive: true })
  writeFileSync(join(directory, 'cas', 'sha256', digest.slice(0, 2), digest), text)
}

test('blobs: inputs come from mirrors, one of which is away', { timeout: 120_000 }, async (t) => {
  await using mesh = await openMesh(t)
  const plain = join(mesh.directory, 'plain')
  mirrorDirectory(plain, 'from a plain directory\n')
  const server = createServer((request, response) => {
    const path = join(plain, new URL(request.url ?? '', 'http://mirror').pathname)
    if (!existsSync(path) || !statSync(path).isFile()) return void response.writeHead(404).end()
    response.setHeader('content-length', statSync(path).size)
    if (request.method === 'HEAD') return void response.end()
    createReadStream(path).pipe(response)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const address = server.address()
  assert(typeof address === 'object' && address !== null)
  const port = await freePort()
  const args = [
    '--mirror',
    `http://127.0.0.1:${port}`,
    '--mirror',
    `http://127.0.0.1:${address.port}/`,
  ]
  const root = await mesh.start({ name: 'root', role: 'root' })
  const [dev] = await Promise.all([
    mesh.start({ name: 'dev', role: 'client', parents: [root], args }),
    mesh.start({ name: 'w1', role: 'worker,store', listen: 'none', parents: [root], args }),
  ])
  const desk = mesh.desk(dev)
  await desk.untilReady('w1')
  const build = async (text: string): Promise<void> => {
    desk.write(
      'graph.mesh.toml',
      `mesh = 1\n[derivation.a]\nbuilder = "/bin/sh"\nargs = ["-c", 'cat $far > $out']\ninputs.far = { cid = "${cidOf(sha256(text))}" }\n`,
    )
    const ended = await desk.mesh('submit', 'graph.mesh.toml', '--json')
    assert.equal(ended.code, 0, ended.stdout)
    assert.equal(desk.read('result/a'), text)
    assert.equal(submitted(ended).bytes.root, 0)
  }

  await t.test('blobs: a plain directory behind a web server is a mirror', () =>
    build('from a plain directory\n'),
  )

  await t.test('blobs: what nobody has is not found', async () => {
    const missing = await desk.mesh('get', cidOf(sha256('nowhere')), '-o', 'absent', '--json')
    assert.deepEqual([missing.code, problem(missing).code], [5, 'MESH0601'])
  })

  await t.test('blobs: nginx is a mirror without any plug-in', async (nginxTest) => {
    if (spawnSync('nginx', ['-v']).error !== undefined)
      return nginxTest.skip('nginx is not installed')
    const directory = join(mesh.directory, 'nginx')
    mirrorDirectory(directory, 'from nginx\n')
    const config = join(mesh.directory, 'nginx.conf')
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
      .map((kind) => `${kind}_temp_path ${mesh.directory};`)
      .join(' ')
    writeFileSync(
      config,
      `daemon off; master_process off; pid ${mesh.directory}/nginx.pid; error_log stderr; events {}
http { access_log off; ${temporary} server { listen 127.0.0.1:${port}; root ${directory}; } }
`,
    )
    const nginx = spawn('nginx', ['-c', config, '-e', 'stderr'], { stdio: 'ignore' })
    try {
      await until('nginx to listen', async () =>
        existsSync(join(mesh.directory, 'nginx.pid')) ? true : undefined,
      )
      await build('from nginx\n')
    } finally {
      nginx.kill('SIGKILL')
      await once(nginx, 'exit')
    }
  })
})
