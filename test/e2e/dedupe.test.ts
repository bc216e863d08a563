/** Two people ask for the same at the same time, at different nodes: each job is built once. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openMesh, submitted } from './meshes.ts'

const GRAPH = `mesh = 1
${['a', 'b', 'c']
  .map(
    (name) => `
[derivation.${name}]
builder = "/bin/sh"
args = ["-c", 'sleep 0.5; echo ${name} > $out; date +%s%N >> $out']
`,
  )
  .join('')}
[derivation.all]
builder = "/bin/sh"
args = ["-c", 'cat $a $b $c > $out; date +%s%N >> $out']
inputs.a = { output = "a" }
inputs.b = { output = "b" }
inputs.c = { output = "c" }
`

test(
  'dedupe: a graph that is submitted twice at once is built once',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const root = await mesh.start({ name: 'root', role: 'root' })
    const [ann, bob] = await Promise.all([
      mesh.start({ name: 'ann', role: 'client', parents: [root] }),
      mesh.start({ name: 'bob', role: 'client', parents: [root] }),
      mesh.start({ name: 'w1', role: 'worker,store', listen: 'none', cpus: 1, parents: [root] }),
      mesh.start({ name: 'w2', role: 'worker,store', listen: 'none', cpus: 1, parents: [root] }),
    ])
    const desk = mesh.desk(ann)
    const other = mesh.desk(bob)
    await desk.untilReady('w1', 'w2')
    // Each output holds the time at which it was made: equal ones were made once.
    const ends = await Promise.all([
      desk.mesh('submit', desk.write('graph.mesh.toml', GRAPH), '--json'),
      desk.mesh('submit', 'graph.mesh.toml', '--json', '-o', 'second'),
      other.mesh('submit', other.write('other.mesh.toml', GRAPH), '--json'),
    ])
    for (const ended of ends) assert.equal(ended.code, 0, ended.stderr)
    const outputs = [desk.read('result/all'), desk.read('second/all'), other.read('result/all')]
    assert.equal(new Set(outputs).size, 1, outputs.join())

    const ids = ends.map((ended) => submitted(ended).request)
    const attempts = new Map<string, Set<string>>()
    const jobs = await desk.jobs()
    assert.deepEqual(new Set(jobs.map((job) => job.request)), new Set(ids))
    for (const { key, attempts: made } of jobs) {
      const seen = attempts.get(key ?? '') ?? new Set()
      for (const { id } of made) seen.add(id)
      attempts.set(key ?? '', seen)
    }
    assert.deepEqual(
      [...attempts.values()].map((seen) => seen.size),
      [1, 1, 1, 1],
    )
  },
)
