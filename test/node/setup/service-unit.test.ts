/** The systemd unit: what it says, and that systemd itself accepts it. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { serviceUnit } from '../../../src/node/setup/service-unit.ts'

const ANN = { isRoot: false, home: '/ann' }

test('service-unit: of the machine for root, else of the user', () => {
  const root = serviceUnit({
    program: '/usr/bin/mesh-node',
    config: undefined,
    isRoot: true,
    home: '/root',
  })
  assert.equal(root.path, '/etc/systemd/system/mesh-node.service')
  assert.match(root.text, /^ExecStart=\/usr\/bin\/mesh-node run$/m)
  assert.match(root.text, /^StateDirectory=mesh$/m)
  assert.match(root.text, /^WantedBy=multi-user\.target$/m)
  const own = serviceUnit({ program: '/usr/bin/mesh-node', config: '/c.toml', ...ANN })
  assert.equal(own.path, '/ann/.config/systemd/user/mesh-node.service')
  assert.match(own.text, /^ExecStart=\/usr\/bin\/mesh-node run --config \/c\.toml$/m)
  assert.doesNotMatch(own.text, /StateDirectory/)
  assert(own.commands.every((command) => !command.startsWith('systemctl enable')))
})

test('service-unit: paths with what systemd would read as something else', () => {
  const { text } = serviceUnit({ program: '/opt/a b/100%/$x/"q"', config: undefined, ...ANN })
  assert.match(text, /^ExecStart="\/opt\/a b\/100%%\/\$\$x\/\\"q\\"" run$/m)
})

const analyze = spawnSync('systemd-analyze', ['--version']).status === 0

test(
  'service-unit: systemd-analyze finds nothing wrong',
  { skip: analyze ? false : 'needs systemd-analyze (package systemd)' },
  () => {
    const directory = mkdtempSync(join(tmpdir(), 'mesh unit-'))
    try {
      const program = join(directory, 'mesh-node')
      writeFileSync(program, '#!/bin/sh\n')
      chmodSync(program, 0o755)
      const { text } = serviceUnit({
        program,
        config: join(directory, '100% $HOME.toml'),
        isRoot: true,
        home: '/root',
      })
      const file = join(directory, 'mesh-node.service')
      writeFileSync(file, text)
      const { status, stderr, stdout } = spawnSync(
        'systemd-analyze',
        ['verify', '--man=no', file],
        { encoding: 'utf8' },
      )
      const said = `${stdout}${stderr}`
        .split('\n')
        .filter((line) => line.includes('mesh-node.service'))
      assert.deepEqual([status, said], [0, []], stderr)
    } finally {
      rmSync(directory, { recursive: true })
    }
  },
)
