/** An operator at a mesh of real processes: nodes are drained, a node's own check refuses, a job is held and retried. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { DrainView, JobView, Status, Undrained } from '../../src/wire/api.ts'
import { lastJson } from '../../scripts/cluster.ts'
import { processesWith } from '../build/builds.ts'
import { openMesh, submitted, until } from './meshes.ts'

const graph = (parts: Readonly<Record<string, string>>, isSealed = true): string =>
  ['mesh = 1']
    .concat(
      Object.entries(parts).map(
        ([name, script]) => `
[derivation.${name}]
builder = "/bin/sh"
args = ["-c", '''${script}''']
sealed = ${isSealed}`,
      ),
    )
    .join('\n')

test(
  'levers: a drained node is emptied at the deadline, says so itself, and works again',
  {
    timeout: 120_000,
  },
  async (t) => {
    await using mesh = await openMesh(t)
    const root = await mesh.start({ name: 'root', role: 'root' })
    const worker = { role: 'worker,store', listen: 'none', cpus: 1, parents: [root] }
    const w1 = await mesh.start({ name: 'w1', ...worker })
    const desk = mesh.desk(root)
    await desk.untilReady('w1')
    const sleep = `300.1${process.pid}`
    const script = `test "$MESH_NODE" = w2 || sleep ${sleep}; echo done on $MESH_NODE > $out`
    const file = desk.write('g.mesh.toml', graph({ slow: script }))
    const following = desk.follow('submit', file, '--json')
    await until('the build on w1', async () =>
      (await processesWith(sleep)).length > 0 ? true : undefined,
    )
    await mesh.start({ name: 'w2', ...worker })
    await desk.untilReady('w2')
    const drained = await desk.mesh(
      'drain',
      'w1',
      '--reason',
      'new kernel',
      '--deadline',
      '1s',
      '--json',
    )
    assert.equal(drained.code, 0, drained.stderr)
    const view = DrainView.parse(lastJson(drained))
    assert.deepEqual(
      view.nodes.map(({ name, state, runningCount }) => [name, state, runningCount]),
      [['w1', 'draining', 1]],
    )
    const ended = await following.ended
    assert.equal(ended.code, 0, ended.stderr)
    assert.deepEqual(submitted(ended).jobs, { built: 1, cached: 0, failed: 0, cancelled: 0 })
    assert.equal(desk.read('result/slow'), 'done on w2\n')
    await until('the build on w1 to be gone', async () =>
      (await processesWith(sleep)).length === 0 ? true : undefined,
    )
    const [first, second] = (await desk.job('slow')).attempts
    assert.match(first?.error ?? '', /taken back from w1 .*: it is drained by .*: new kernel/)
    assert.equal(second?.node, 'w2')
    // The node itself says so.
    const own = await until('w1 to hear of it', async () => {
      const status = await mesh.desk(w1).ask(Status, '/api/status')
      return status?.drain === undefined ? undefined : status
    })
    assert.deepEqual([own.draining, own.drain?.reason], [true, 'new kernel'])
    const undrained = await desk.mesh('undrain', 'w1', '--json')
    assert.deepEqual(Undrained.parse(lastJson(undrained)).nodes, ['w1'])
    await desk.untilReady('w1')
  },
)

test(
  'levers: a node’s own check refuses a job, which runs elsewhere; a held job waits; a failed one is retried',
  {
    timeout: 120_000,
  },
  async (t) => {
    await using mesh = await openMesh(t)
    const root = await mesh.start({ name: 'root', role: 'root,store' })
    const desk = mesh.desk(root)
    const check = desk.write(
      'check.sh',
      '#!/bin/sh\ncase $MESH_NAME in (licensed) echo "no license for $MESH_NAME"; exit 2;; esac\n',
      0o755,
    )
    const args = ['--isolation', 'host']
    const worker = { role: 'worker,store', listen: 'none', cpus: 1, parents: [root], args }
    await mesh.start({ name: 'w1', ...worker, args: [...args, '--check', check] })
    await desk.untilReady('w1')
    // Only what has no walls sees a file of the host.
    const parts = {
      licensed: 'echo with a license on $MESH_NODE > $out',
      plain: 'echo on $MESH_NODE > $out',
      flaky: `test -e ${join(desk.directory, 'fixed')} && echo fixed > $out`,
    }
    const file = desk.write('g.mesh.toml', graph(parts, false))
    const following = desk.follow('submit', file, '--keep-going', '--json')
    const refused = await until('the refusal', async () => {
      const job = (await desk.jobs()).find(({ name }) => name === 'licensed')
      return job?.why?.class === 'refused' ? job : undefined
    })
    assert.match(refused.why?.text ?? '', /w1 \(no license for licensed\)/)
    const held = await desk.mesh('hold', 'licensed', '--reason', 'not today', '--json')
    assert.equal(JobView.parse(lastJson(held)).why?.class, 'held')
    await mesh.start({ name: 'w2', ...worker })
    await desk.untilReady('w2')
    assert.equal((await desk.job('licensed')).attempts.length, 1, 'held, it is not started')
    assert.equal((await desk.mesh('release', 'licensed')).code, 0)
    const ended = await following.ended
    assert.equal(ended.code, 1, ended.stderr)
    const { jobs, failures } = submitted(ended)
    assert.deepEqual(jobs, { built: 2, cached: 0, failed: 1, cancelled: 0 })
    assert.deepEqual(
      failures.map(({ name }) => name),
      ['flaky'],
    )
    assert.deepEqual(
      (await desk.job('licensed')).attempts.map(({ node, state }) => [node, state]),
      [
        ['w1', 'lost'],
        ['w2', 'done'],
      ],
    )
    desk.write('fixed', '')
    const retried = await desk.mesh('retry', 'flaky', '--json')
    assert.equal(retried.code, 0, retried.stderr)
    await desk.untilRequest('done', ({ state }) => state === 'done')
    assert.equal((await desk.job('flaky')).state, 'done')
  },
)
