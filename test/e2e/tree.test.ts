/** Trees of real daemons: work goes down any number of levels, and on when a node in the middle is gone. */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { freePort, openMesh, submitted, tcp, until, type Daemon } from './meshes.ts'

/** Plain processes, so that a test can hold them back with files of the host. */
const HELD = (directory: string, names: readonly string[]): string => `mesh = 1
[defaults]
sealed = false
env = { PLACE = "${directory}" }
${names
  .map(
    (name) => `
[derivation.${name}]
builder = "/bin/sh"
args = ["-c", 'echo ${name} >> $PLACE/runs; until [ -e $PLACE/go-${name} ]; do sleep 0.05; done; echo ${name} > $out']
`,
  )
  .join('')}
[derivation.all]
builder = "/bin/sh"
args = ["-c", 'cat ${names.map((name) => `$${name}`).join(' ')} > $out; echo all >> $PLACE/runs']
${names.map((name) => `inputs.${name} = { output = "${name}" }`).join('\n')}
`

const WORKER = { role: 'worker,store', listen: 'none', args: ['--isolation', 'host'] } as const

function runsOf(place: string): string[] {
  return readFileSync(join(place, 'runs'), 'utf8').trim().split('\n').toSorted()
}

test(
  'tree: a leaf two levels below the root builds, and everybody sees it',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const root = await mesh.start({ name: 'root', role: 'root' })
    const middle = await mesh.start({ name: 'middle', role: 'client', parents: [root] })
    const low = await mesh.start({ name: 'low', role: 'store', parents: [middle] })
    const leaf = await mesh.start({ ...WORKER, name: 'leaf', cpus: 2, parents: [low] })
    for (const node of [root, middle, leaf]) {
      const desk = mesh.desk(node)
      const nodes = await desk.untilReady('leaf', 'low', 'middle', 'root')
      assert.deepEqual(
        nodes
          .map(({ name, parent }) => [name, parent])
          .toSorted(([a = ''], [b = '']) => ((a ?? '') < (b ?? '') ? -1 : 1)),
        [
          ['leaf', 'low'],
          ['low', 'middle'],
          ['middle', 'root'],
          ['root', null],
        ],
        `as ${node.name} sees it`,
      )
    }
    const names = ['one', 'two', 'three']
    for (const name of names) writeFileSync(join(mesh.directory, `go-${name}`), '')
    const desk = mesh.desk(middle)
    const file = desk.write('graph.mesh.toml', HELD(mesh.directory, names))
    const ended = await desk.mesh('submit', file, '--json')
    assert.equal(ended.code, 0, ended.stderr)
    assert.equal(desk.read('result/all'), 'one\ntwo\nthree\n')
    assert.deepEqual(submitted(ended).jobs, { built: 4, cached: 0, failed: 0, cancelled: 0 })
    for (const job of await desk.jobs())
      assert.deepEqual(
        job.attempts.map(({ node, state }) => [node, state]),
        [['leaf', 'done']],
        job.name,
      )
    const logs = await mesh.desk(root).mesh('logs', 'one')
    assert.equal(logs.code, 0, logs.stderr)
  },
)

test(
  'tree: what runs below a killed middle node is adopted by way of another parent',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const place = mesh.directory
    const root = await mesh.start({ name: 'root', role: 'root,store' })
    const middle = await mesh.start({ name: 'middle', role: 'client', parents: [root] })
    await mesh.start({ ...WORKER, name: 'leaf', cpus: 2, parents: [middle, root] })
    const desk = mesh.desk(root)
    await desk.untilReady('leaf')
    const file = desk.write('graph.mesh.toml', HELD(place, ['one', 'two']))
    const following = desk.follow('submit', file, '--json')
    await desk.untilJob('one', 'building')
    await desk.untilJob('two', 'building')
    await middle.kill()
    writeFileSync(join(place, 'go-one'), '')
    await desk.untilJob('one', 'done')
    writeFileSync(join(place, 'go-two'), '')
    const ended = await following.ended
    assert.equal(ended.code, 0, ended.stderr)
    assert.deepEqual(runsOf(place), ['all', 'one', 'two'], 'nothing was run twice')
  },
)

test(
  'tree: a killed root, and a killed middle node, come back and find what runs',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const place = mesh.directory
    const at = { root: tcp(await freePort()), middle: tcp(await freePort()) }
    const startRoot = (): Promise<Daemon> =>
      mesh.start({ name: 'root', role: 'root,store', listen: at.root })
    let root = await startRoot()
    const startMiddle = (): Promise<Daemon> =>
      mesh.start({ name: 'middle', role: 'client', listen: at.middle, parents: [root] })
    const middle = await startMiddle()
    // Two of them: a machine offers no more processors than it has.
    const leaf = await mesh.start({ ...WORKER, name: 'leaf', cpus: 2, parents: [middle] })
    await mesh.start({ ...WORKER, name: 'other', cpus: 1, parents: [middle] })
    const desk = mesh.desk(leaf)
    await desk.untilReady('leaf', 'other')
    const file = desk.write('graph.mesh.toml', HELD(place, ['one', 'two', 'three']))
    const following = desk.follow('submit', file, '--json')
    for (const name of ['one', 'two', 'three']) await desk.untilJob(name, 'building')
    await root.kill()
    writeFileSync(join(place, 'go-one'), '')
    root = await startRoot()
    await desk.untilJob('one', 'done')
    await middle.kill()
    writeFileSync(join(place, 'go-two'), '')
    await startMiddle()
    await desk.untilJob('two', 'done')
    writeFileSync(join(place, 'go-three'), '')
    const ended = await following.ended
    assert.equal(ended.code, 0, ended.stderr)
    assert.deepEqual(runsOf(place), ['all', 'one', 'three', 'two'], 'nothing was run twice')
    // A lease of `all`, which begins when both are back, may have been given back before somebody had room.
    for (const { name, attempts } of await desk.jobs())
      if (name !== 'all') assert.equal(attempts.length, 1, name)
  },
)

test(
  'tree: a subtree without its root builds what it leases and what is submitted in it',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const place = mesh.directory
    const listen = tcp(await freePort())
    let root = await mesh.start({ name: 'root', role: 'root,store', listen })
    const middle = await mesh.start({ name: 'middle', role: 'store', parents: [root] })
    const dev = await mesh.start({ name: 'dev', role: 'client', parents: [middle] })
    await mesh.start({ ...WORKER, name: 'leaf', cpus: 2, parents: [middle] })
    const desk = mesh.desk(dev)
    await desk.untilReady('leaf')
    const leased = desk.follow(
      'submit',
      desk.write('leased.mesh.toml', HELD(place, ['leased'])),
      '--json',
    )
    await desk.untilJob('leased', 'building')
    await root.kill()
    writeFileSync(join(place, 'go-leased'), '')
    const other = mesh.desk(dev)
    writeFileSync(join(place, 'go-here'), '')
    const ended = await other.mesh(
      'submit',
      other.write('here.mesh.toml', HELD(place, ['here'])),
      '--json',
    )
    assert.equal(ended.code, 0, ended.stderr)
    assert.equal(other.read('result/all'), 'here\n')
    assert.equal(
      (await other.untilRequest('owned below', ({ owner }) => owner === 'middle')).state,
      'done',
    )
    root = await mesh.start({ name: 'root', role: 'root,store', listen })
    const first = await leased.ended
    assert.equal(first.code, 0, first.stderr)
    assert.deepEqual(runsOf(place), ['all', 'all', 'here', 'leased'])
    // What was built below while the root was away is known by its digest, also to it.
    const again = await other.mesh('submit', 'here.mesh.toml', '--json')
    assert.deepEqual([again.code, submitted(again).jobs.built], [0, 0])
  },
)

test(
  'tree: two nodes that are each other’s parents settle, and both serve',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const [a, b] = [tcp(await freePort()), tcp(await freePort())]
    const args = (parent: string): string[] => ['--isolation', 'host', '--parent', parent]
    const [left, right] = await Promise.all([
      mesh.start({ name: 'left', role: 'worker,store', listen: a, cpus: 1, args: args(b) }),
      mesh.start({ name: 'right', role: 'worker,store', listen: b, cpus: 1, args: args(a) }),
    ])
    writeFileSync(join(mesh.directory, 'go-one'), '')
    for (const node of [left, right]) {
      const desk = mesh.desk(node)
      const ended = await desk.mesh(
        'submit',
        desk.write('graph.mesh.toml', HELD(mesh.directory, ['one'])),
        '--json',
      )
      assert.equal(ended.code, 0, `${node.name}: ${ended.stderr}`)
      assert.equal(desk.read('result/all'), 'one\n')
    }
    const seen = await until('one of them to say that it is a loop', async () => {
      const said = await Promise.all([left, right].map((node) => mesh.desk(node).mesh('status')))
      return said.find(({ stdout }) => stdout.includes('loop'))
    })
    assert.match(seen.stdout, /loop/)
  },
)
