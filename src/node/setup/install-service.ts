/** `mesh-node install-service --print`: the systemd unit of this node. Installs and starts nothing. */
import { join, resolve } from 'node:path'
import { EXIT, MeshError } from '../../base/errors.ts'
import { serviceUnit, type ServiceUnit } from './service-unit.ts'
import type { SetupLine } from './setup-flags.ts'
import type { SetupSystem } from './setup-system.ts'

/** `bin/mesh-node` of this package: as far from src/ as from dist/. */
const PROGRAM = join(import.meta.dirname, '../../../bin/mesh-node')

export function unitFor(
  { io }: Pick<SetupSystem, 'io'>,
  options: { readonly config: string | undefined },
): ServiceUnit {
  return serviceUnit({ program: PROGRAM, isRoot: io.isRoot, home: io.home, ...options })
}

export function installService({ line, switches }: SetupLine, system: SetupSystem): number {
  const config = line.flags.get('config')?.at(-1)
  const unit = unitFor(system, {
    config: config === undefined ? undefined : resolve(system.io.cwd, config),
  })
  if (!switches.has('print'))
    throw new MeshError('MESH0002', 'install-service only prints the unit: say --print', {
      hints: [
        `mesh-node install-service --print > ${unit.path}`,
        ...unit.commands.map((command) => `then ${command}`),
      ],
    })
  system.out(unit.text)
  system.err(
    [`# ${unit.path}`, ...unit.commands.map((command) => `# then: ${command}`), ''].join('\n'),
  )
  return EXIT.ok
}
