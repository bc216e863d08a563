/** How much of a machine is for builds, as `mesh nodes`, `mesh nodes show` and `mesh top` tell it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nodeLines, nodeShowLines } from '../../src/cli/node-views.ts'
import { topLines } from '../../src/cli/top-view.ts'
import type { NodeView, Top } from '../../src/wire/api.ts'
import { PolicyView } from '../../src/wire/policy.ts'

const POLICY: PolicyView = {
  name: 'when-idle',
  cpus: 2,
  of: 16,
  wholeMemoryBytes: 64 * 1024 ** 3,
  reason: 'ann is at the machine (tty2, idle 4 s); other hours from 18:00',
  until: '2026-11-23T17:00:00.000Z',
}
const SHOWN = '2 of 16 cpus: ann is at the machine (tty2, idle 4 s); other hours from 18:00'

const NODE: NodeView = {
  name: 'desk',
  peerId: '12D3KooWGatU38nUxa2UFZ9hKsn9ZEjVQZbXrBVcqZMfXhvBVrBe',
  state: 'ready',
  roles: ['worker'],
  parent: 'root',
  environments: [],
  capacity: { cpus: 2, memoryBytes: 4 * 1024 ** 3, diskBytes: 1024 ** 4 },
  allocated: { cpus: 1, memoryBytes: 0, diskBytes: 0 },
  versions: { mesh: '0.1.0', protocols: [] },
  http: null,
  lastSeenAt: '2026-11-23T10:00:00.000Z',
  note: '',
  policy: POLICY,
}
const STYLE = { colour: false, unicode: false }
const OPTIONS = { style: STYLE, width: undefined, nowWallMs: Date.parse('2026-11-23T10:00:01Z') }

test('policy view: the list says why less than all is for builds, and nothing where all is', () => {
  assert.match(nodeLines([NODE], OPTIONS).join('\n'), new RegExp(`1/2 .*${escaped(SHOWN)}`))
  const whole = { ...NODE, policy: { ...POLICY, cpus: 16, reason: 'nobody is there' } }
  assert.doesNotMatch(nodeLines([whole], OPTIONS).join('\n'), /nobody/)
  const lost: NodeView = { ...NODE, state: 'lost' }
  assert.doesNotMatch(nodeLines([lost], OPTIONS).join('\n'), /ann/, 'nobody knows who is there now')
})

test('policy view: one node is shown with the name of its policy, all that it gives or not', () => {
  assert.ok(nodeShowLines(NODE, [], OPTIONS).includes(`  policy     when-idle, ${SHOWN}`))
  const whole = { ...NODE, policy: { ...POLICY, cpus: 16, reason: 'nobody is there' } }
  assert.ok(
    nodeShowLines(whole, [], OPTIONS).includes(
      '  policy     when-idle, 16 of 16 cpus: nobody is there',
    ),
  )
  const { policy: _policy, ...older } = NODE
  assert.ok(!nodeShowLines(older, [], OPTIONS).some((line) => line.startsWith('  policy')))
})

test('policy view: so does mesh top', () => {
  const top: Top = {
    v: 1,
    at: '2026-11-23T10:00:00.000Z',
    name: 'root',
    totals: {
      nodes: { ready: 1 },
      cpus: { total: 2, busy: 1 },
      jobs: { waiting: 0, running: 1 },
      requests: { active: 1 },
    },
    nodes: [
      {
        name: 'desk',
        peerId: NODE.peerId,
        state: 'ready',
        cpus: 2,
        busy: 1,
        running: 1,
        note: '',
        policy: POLICY,
      },
    ],
    running: [],
    waiting: [],
    users: [],
  }
  const lines = topLines(top, {
    style: STYLE,
    width: undefined,
    height: undefined,
    history: [],
    stale: undefined,
    footer: undefined,
  })
  assert.ok(
    lines.some((line) => line.includes(SHOWN)),
    lines.join('\n'),
  )
})

test('policy view: what a node tells is bounded', () => {
  assert.equal(PolicyView.safeParse({ ...POLICY, reason: 'x'.repeat(513) }).success, false)
  assert.equal(PolicyView.safeParse({ ...POLICY, cpus: -1 }).success, false)
})

const escaped = (text: string): string => text.replaceAll(/[()]/g, '\\$&')
