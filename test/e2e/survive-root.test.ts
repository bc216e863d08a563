/** `kill -9` of the root: what it accepted goes on, what ran is adopted, what was finished stays so. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { freePort, openMesh, submitted, tcp, until } from './meshes.ts'

/** Plain processes, so that a test can hold them back with files of the host. */
const GRAPH = (directory: string): string => `mesh = 1
[defaults]
sealed = false
env = { PLACE = "${directory}" }

[derivation.first]
builder = "/bin/sh"
args = ["-c", 'echo first >> $PLACE/runs; echo 1 > $out']

[derivation.during]
builder = "/bin/sh"
args = ["-c", 'echo during >> $PLACE/runs; until [ -e $PLACE/go-during ]; do sleep 0.05; done; cat $first > $out; echo 2 >> $out']
inputs.first = { output = "first" }

[derivation.after]
builder = "/bin/sh"
args = ["-c", 'echo after >> $PLACE/runs; until [ -e $PLACE/go-after ]; do sleep 0.05; done; cat $first > $out; echo 3 >> $out']
inputs.first = { output = "first" }

[derivation.last]
builder = "/bin/sh"
args = ["-c", 'echo last >> $PLACE/runs; cat $during $after > $out']
inputs.during = { output = "during" }
inputs.after = { output = "after" }
`

test(
  'survive-root: a killed root comes back and adopts what runs',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const listen = tcp(await freePort())
    const place = mesh.directory
    let root = await mesh.start({ name: 'root', role: 'root', listen })
    const [dev] = await Promise.all([
      mesh.start({ name: 'dev', role: 'client', parents: [root] }),
      mesh.start({
        name: 'w1',
        role: 'worker,store',
        listen: 'none',
        cpus: 2,
        parents: [root],
        args: ['--isolation', 'host'],
      }),
    ])
    const desk = mesh.desk(dev)
    await desk.untilReady('w1')
    const file = desk.write('graph.mesh.toml', GRAPH(place))
    const following = desk.follow('submit', file, '--json')
    const during = await desk.untilJob('during', 'building')
    const after = await desk.untilJob('after', 'building')

    await root.kill()
    // Its outcome has to wait at the worker until the root is back.
    writeFileSync(join(place, 'go-during'), '')
    const spool = join(mesh.directory, 'w1', 'build', during.attempts[0]?.id ?? '')
    await until('the build to end', async () => (existsSync(spool) ? undefined : true))
    assert.equal(following.child.exitCode, null, 'the client waits for the root')
    root = await mesh.start({ name: 'root', role: 'root', listen })
    await desk.untilJob('after', 'building')
    writeFileSync(join(place, 'go-after'), '')

    const ended = await following.ended
    assert.equal(ended.code, 0, ended.stderr)
    assert.deepEqual(submitted(ended).jobs, { built: 4, cached: 0, failed: 0, cancelled: 0 })
    assert.equal(desk.read('result/last'), '1\n2\n1\n3\n')
    const jobs = await desk.jobs()
    for (const job of jobs)
      assert.deepEqual([job.attempts.length, job.attempts[0]?.state], [1, 'done'], job.name)
    assert.equal((await desk.job('during')).attempts[0]?.id, during.attempts[0]?.id)
    assert.equal((await desk.job('after')).attempts[0]?.id, after.attempts[0]?.id)
    const runs = readFileSync(join(place, 'runs'), 'utf8').trim().split('\n')
    assert.deepEqual(runs.toSorted(), ['after', 'during', 'first', 'last'])
  },
)
