/** What scripts rely on: forms of `--json`, node.json and its life, signals. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { z } from 'zod'
import { lastJson, MESH_NODE, run, type Finished } from '../../scripts/cluster.ts'
import { JobView, NodeView, RequestView } from '../../src/wire/api.ts'
import { cidOf, sha256 } from '../../src/wire/digest.ts'
import { NodeFile } from '../../src/wire/node-file.ts'
import { openMesh, submitted, until, type Desk } from './meshes.ts'

async function printed(desk: Desk, ...args: readonly string[]): Promise<unknown> {
  const ended = await desk.mesh(...args, '--json')
  assert.equal(ended.code, 0, ended.stderr)
  assert.equal(ended.stdout.split('\n').length, 2, 'one line')
  return lastJson(ended)
}

const keysOf = (value: unknown): string[] => Object.keys(z.looseObject({}).parse(value)).toSorted()

test('contracts: what submit, jobs, nodes, put and get print', { timeout: 120_000 }, async (t) => {
  await using mesh = await openMesh(t)
  const alone = await mesh.start({
    name: 'alone',
    role: 'root,worker,store',
    cpus: 2,
    args: ['--isolation', 'host'],
  })
  const desk = mesh.desk(alone)
  desk.write('text', 'hello\n')
  desk.write(
    'graph.mesh.toml',
    `mesh = 1
[defaults]
sealed = false
[derivation.tool]
builder = "/bin/sh"
args = ["-c", 'mkdir $doc; cp $text $doc/text; echo "#!/bin/sh" > $out; chmod +x $out']
outputs = ["out", "doc"]
inputs.text = { path = "./text" }
[derivation.link]
builder = "/bin/sh"
args = ["-c", 'ls $tool; ln -s elsewhere $out']
inputs.tool = { output = "tool" }
[derivation.other]
builder = "/bin/sh"
args = ["-c", 'exit 1']
`,
  )
  const ended = await desk.mesh(
    'submit',
    'graph.mesh.toml',
    '-A',
    'tool',
    '-A',
    'link',
    '-o',
    'made',
    '--json',
  )
  assert.equal(ended.code, 0, ended.stderr)
  const told = submitted(ended)
  const { link, tool } = told.outputs
  assert.deepEqual(link, { out: { kind: 'symlink', target: 'elsewhere', executable: false } })
  assert.deepEqual(keysOf(tool), ['doc', 'out'])
  assert.deepEqual(tool?.['out'], {
    cid: cidOf(sha256('#!/bin/sh\n')),
    kind: 'file',
    executable: true,
  })
  assert.deepEqual(
    [told.state, told.jobs, told.bytes.root, told.ranLocally],
    ['done', { built: 2, cached: 0, failed: 0, cancelled: 0 }, 0, 2],
  )
  assert.equal(desk.read('made/tool.doc/text'), 'hello\n')
  assert.equal(statSync(join(desk.directory, 'made/tool')).mode & 0o111, 0o111)
  // It replaces what it wrote, and nothing else.
  assert.equal((await desk.mesh('submit', 'graph.mesh.toml', '-A', 'tool', '-o', 'made')).code, 0)
  desk.write('mine/tool', 'mine')
  const refused = await desk.mesh('submit', 'graph.mesh.toml', '-A', 'tool', '-o', 'mine')
  assert.equal(refused.code, 2, refused.stderr)
  assert.equal(desk.read('mine/tool'), 'mine')

  const jobs = z.array(JobView).parse(await printed(desk, 'jobs'))
  assert.deepEqual(
    new Set(jobs.map(({ name, cached }) => `${name} ${cached}`)),
    new Set(['tool true', 'tool false', 'link false']),
  )
  const [attempt] = jobs.find(({ name }) => name === 'link')?.attempts ?? []
  for (const key of [
    'n',
    'node',
    'host',
    'arch',
    'platform',
    'environment',
    'action',
    'state',
    'startedAt',
    'endedAt',
    'phases',
    'usage',
  ])
    assert(keysOf(attempt).includes(key), key)
  const requests = z.array(RequestView).parse(await printed(desk, 'jobs', '--requests'))
  assert.deepEqual(
    requests.map(({ state }) => state),
    ['done', 'done'],
  )
  const [node] = z.array(NodeView).parse(await printed(desk, 'nodes'))
  assert.deepEqual(
    [node?.name, node?.peerId, node?.state, node?.parent],
    ['alone', alone.file.peerId, 'ready', null],
  )

  const put = await desk.mesh('put', 'text')
  assert.equal(put.stdout, `${cidOf(sha256('hello\n'))}\n`)
  const got = await desk.mesh('get', put.stdout.trim(), '-o', 'copy')
  assert.deepEqual([got.code, desk.read('copy')], [0, 'hello\n'])
  assert.equal((await desk.mesh('cat', put.stdout.trim())).stdout, 'hello\n')
  const tree = await desk.mesh('put', 'made/tool.doc')
  assert.equal(tree.stdout.trim(), tool?.['doc']?.cid)
})

/** A daemon whose exit code is wanted. */
interface Watched {
  readonly directory: string
  readonly ended: Promise<Finished>
  readonly file: NodeFile
}

async function watch(directory: string, ...args: readonly string[]): Promise<Watched> {
  const ended = run(MESH_NODE, [
    '--data',
    directory,
    '--name',
    'watched',
    '--http',
    '127.0.0.1:0',
    '--listen',
    'none',
    ...args,
  ])
  const path = join(directory, 'node.json')
  const file = await until('node.json', async () =>
    existsSync(path) ? NodeFile.parse(JSON.parse(readFileSync(path, 'utf8'))) : undefined,
  )
  return { directory, ended, file }
}

test('contracts: node.json tells of a daemon that is there', { timeout: 120_000 }, async (t) => {
  await using mesh = await openMesh(t)
  const client = {
    name: 'node',
    role: 'client',
    listen: 'none',
    args: ['--parent', '/ip4/127.0.0.1/tcp/1'],
  }
  const first = await mesh.start(client)
  const path = join(first.directory, 'node.json')
  assert.deepEqual(first.file.listen, [])
  assert.equal(statSync(first.directory).mode & 0o777, 0o700)
  assert.equal(statSync(first.file.socket).mode & 0o777, 0o600)
  await first.kill()
  assert(existsSync(path), 'a killed daemon leaves it')
  const second = await mesh.start(client)
  assert.notEqual(second.pid, first.pid)
  assert.deepEqual({ ...second.file, pid: 0, http: '' }, { ...first.file, pid: 0, http: '' })
  await second.stop()
  assert(!existsSync(path), 'one that stops takes it away')
  assert(!existsSync(second.file.socket))
})

const gated = (gate: string): string =>
  `mesh = 1\n[derivation.slow]\nbuilder = "/bin/sh"\nargs = ["-c", 'until [ -e ${gate} ]; do sleep 0.05; done; echo done > $out']\nsealed = false\n`

test(
  'contracts: SIGTERM lets running builds finish, a second one does not',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const data = join(mesh.directory, 'data')
    const gate = join(mesh.directory, 'gate')
    const first = await watch(data, '--isolation', 'host')
    try {
      const desk = mesh.desk(first)
      desk.write('graph.mesh.toml', gated(gate))
      const following = desk.follow('submit', 'graph.mesh.toml')
      await desk.untilJob('slow', 'building')
      process.kill(first.file.pid, 'SIGTERM')
      await desk.untilDraining()
      writeFileSync(gate, '')
      const ended = await first.ended
      assert.equal(ended.code, 0, ended.stderr)
      assert(!existsSync(join(data, 'node.json')))

      const second = await watch(data, '--isolation', 'host')
      assert.equal((await following.ended).code, 0, following.output.stderr)
      assert.equal(desk.read('result/slow'), 'done\n')
      assert.equal((await desk.job('slow')).attempts.length, 1)

      desk.write('never.mesh.toml', gated(`${gate}-never`))
      desk.follow('submit', 'never.mesh.toml')
      await until('the second build', async () =>
        (await desk.jobs()).some(({ attempts }) => attempts[0]?.state === 'building')
          ? true
          : undefined,
      )
      process.kill(second.file.pid, 'SIGTERM')
      await desk.untilDraining()
      process.kill(second.file.pid, 'SIGTERM')
      assert.equal((await second.ended).code, 143)
    } finally {
      const path = join(data, 'node.json')
      if (existsSync(path))
        process.kill(NodeFile.parse(JSON.parse(readFileSync(path, 'utf8'))).pid, 'SIGKILL')
    }
  },
)
