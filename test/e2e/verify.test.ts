/** Real nodes build one thing and compare: what is reproducible passes, what is not fails and is shown. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from 'zod'
import { Audits } from '../../src/wire/comparisons.ts'
import { lastJson } from '../../scripts/cluster.ts'
import { openMesh, submitted, until } from './meshes.ts'

const GRAPH = `mesh = 1
[derivation.same]
builder = "/bin/sh"
args = ["-c", 'mkdir $out; echo same > $out/file']
run.verify = 2

[derivation.differs]
builder = "/bin/sh"
args = ["-c", 'mkdir -p $out/share; echo same > $out/file; echo "built by $MESH_NODE" > $out/share/who; ln -s file $out/link']
run.verify = 2

[derivation.fails]
builder = "/bin/sh"
args = ["-c", 'echo on $MESH_NODE; test $MESH_NODE = w1 && echo yes > $out']
`

const Diff = z.object({
  agree: z.boolean(),
  found: z.string().nullable(),
  compared: z.array(z.string()).nullable(),
  count: z.number(),
  differences: z.array(
    z.object({
      output: z.string(),
      path: z.string(),
      what: z.string(),
      bytes: z.object({ offset: z.number(), first: z.string(), second: z.string() }).optional(),
    }),
  ),
})

test(
  'verify: two nodes agree, or the submit ends with 3 and the diff names the file',
  { timeout: 180_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const root = await mesh.start({ name: 'root', role: 'root' })
    await Promise.all(
      ['w1', 'w2'].map((name) =>
        mesh.start({ name, role: 'worker,store', listen: 'none', cpus: 1, parents: [root] }),
      ),
    )
    const desk = mesh.desk(root)
    await desk.untilReady('w1', 'w2')
    desk.write('graph.mesh.toml', GRAPH)

    const good = await desk.mesh('submit', 'graph.mesh.toml', '-A', 'same', '--json')
    assert.equal(good.code, 0, good.stdout + good.stderr)
    const same = await desk.job('same')
    assert.deepEqual(same.attempts.map(({ node, state }) => `${node} ${state}`).toSorted(), [
      'w1 done',
      'w2 done',
    ])
    const equal = await desk.mesh('jobs', 'diff', 'same')
    assert.equal(equal.code, 0, equal.stderr)
    assert.match(equal.stdout, /the outputs of w[12], w[12] are equal/)
    const again = await desk.mesh('submit', 'graph.mesh.toml', '-A', 'same', '--json')
    assert.equal(submitted(again).jobs.cached, 1, 'what agreed is not built again')

    const bad = await desk.mesh('submit', 'graph.mesh.toml', '-A', 'differs', '--json', '-o', 'bad')
    assert.equal(bad.code, 3, bad.stderr)
    const [failure] = submitted(bad).failures
    assert.equal(failure?.code, 'MESH0405')
    assert.match(failure?.message ?? '', /^verify=2: w[12] and w[12] produced different "out"/)
    assert.deepEqual(failure?.['differing'], ['out/share/who'])
    assert.match(bad.stderr, /out\/share\/who: differs from byte 10 on/)

    const shown = await desk.mesh('jobs', 'diff', 'differs')
    assert.equal(shown.code, 3, shown.stderr)
    assert.match(shown.stdout, /out\/share\/who: differs from byte 10 on/)
    const told = await desk.mesh('diff', 'differs', '--json')
    assert.equal(told.code, 3, told.stderr)
    const diff = Diff.parse(lastJson(told))
    assert.deepEqual([diff.agree, diff.found, diff.count], [false, 'verify', 1])
    const [difference] = diff.differences
    assert.deepEqual(
      [difference?.output, difference?.path, difference?.what, difference?.bytes?.offset],
      ['out', 'share/who', 'bytes', 10],
    )
    assert.deepEqual(
      [difference?.bytes?.first, difference?.bytes?.second].map((hex) =>
        Buffer.from(hex ?? '', 'hex').toString(),
      ),
      (diff.compared ?? []).map((name) => `${name.slice(1)}\n`),
    )

    const half = await desk.mesh(
      'submit',
      'graph.mesh.toml',
      '-A',
      'fails',
      '--verify',
      '2',
      '--json',
      '-o',
      'half',
    )
    const [first] = submitted(half).failures
    // Who fails first ends it as ever; who fails after another succeeded is not reproducible.
    assert.deepEqual(
      [half.code, first?.code],
      half.code === 3 ? [3, 'MESH0405'] : [1, 'MESH0401'],
      half.stderr,
    )

    const list = await desk.mesh('audit', 'ls', '--json')
    assert.equal(list.code, 0, list.stderr)
    const { share, diverged } = Audits.parse(lastJson(list))
    assert.equal(share, 0)
    assert.ok(diverged.some(({ name, outputs }) => name === 'differs' && outputs[0] === 'out'))
    assert.match((await desk.mesh('audit')).stdout, /audits are off/)
  },
)

test(
  'audit: idle nodes build finished jobs again, and what differs is listed',
  { timeout: 180_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const root = await mesh.start({ name: 'root', role: 'root', args: ['--audit', '100%'] })
    const start = (name: string) =>
      mesh.start({ name, role: 'worker,store', listen: 'none', cpus: 1, parents: [root] })
    await start('w1')
    const desk = mesh.desk(root)
    await desk.untilReady('w1')
    desk.write('graph.mesh.toml', GRAPH)
    const built = await desk.mesh(
      'submit',
      'graph.mesh.toml',
      '-A',
      'same',
      '-A',
      'differs',
      '--verify',
      '1',
      '--json',
    )
    assert.equal(built.code, 0, built.stdout + built.stderr)
    await start('w2')
    const audits = await until('both jobs to be audited', async () => {
      const answer = await desk.ask(Audits, '/api/audits')
      return answer !== undefined && answer.audited.equal + answer.audited.different === 2
        ? answer
        : undefined
    })
    assert.deepEqual(audits.audited, { equal: 1, different: 1, failed: 0 })
    assert.deepEqual(
      audits.diverged.map(({ name, found, nodes }) => [name, found, nodes]),
      [['differs', 'audit', ['w1', 'w2']]],
    )
    const diff = await desk.mesh('jobs', 'diff', 'differs')
    assert.equal(diff.code, 3, diff.stderr)
    assert.match(diff.stdout, /out\/share\/who: differs from byte 10 on/)
    assert.equal((await desk.jobs()).length, 2, 'audits are in no list')
    assert.equal(desk.read('result/differs/share/who'), 'built by w1\n')
  },
)

test(
  'verify: two nodes below one node in the middle build it, each once',
  { timeout: 180_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const root = await mesh.start({ name: 'root', role: 'root' })
    const middle = await mesh.start({ name: 'middle', role: 'store', parents: [root] })
    await Promise.all(
      ['w1', 'w2'].map((name) =>
        mesh.start({ name, role: 'worker,store', listen: 'none', cpus: 1, parents: [middle] }),
      ),
    )
    const desk = mesh.desk(root)
    await desk.untilReady('w1', 'w2')
    desk.write('graph.mesh.toml', GRAPH)
    const good = await desk.mesh('submit', 'graph.mesh.toml', '-A', 'same', '--json')
    assert.equal(good.code, 0, good.stdout + good.stderr)
    const { verify } = await desk.job('same')
    assert.deepEqual(verify?.builders.toSorted(), ['w1', 'w2'])
    const bad = await desk.mesh('submit', 'graph.mesh.toml', '-A', 'differs', '--json', '-o', 'bad')
    assert.equal(bad.code, 3, bad.stdout + bad.stderr)
    assert.deepEqual(submitted(bad).failures[0]?.['differing'], ['out/share/who'])
  },
)
