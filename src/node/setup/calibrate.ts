/** `mesh-node calibrate`: measures this machine and proposes how a node on it should be configured. */
import { EXIT } from '../../base/errors.ts'
import { resolveConfig } from '../config/resolve-config.ts'
import { calibrationText } from './calibrate-view.ts'
import { measure } from './progress.ts'
import { propose } from './proposals/propose.ts'
import type { SetupLine } from './setup-flags.ts'
import type { SetupSystem } from './setup-system.ts'

export async function calibrate(
  { line, jobs = 'mixed', switches }: SetupLine,
  system: SetupSystem,
  signal: AbortSignal,
): Promise<number> {
  const resolution = resolveConfig(line, system.env, system.io)
  if (resolution.config === undefined)
    throw resolution.problems[0] ?? new Error('a configuration without problems was not resolved')
  const { data, machineRoot, parents } = resolution.config
  const findings = await measure(system, { directory: data, machineRoot, signal })
  const proposals = propose(findings.machine, findings.measured, {
    place: parents.length === 0 ? { kind: 'alone' } : { kind: 'join', parents },
    jobs,
  })
  system.out(
    switches.has('json')
      ? `${JSON.stringify({ v: 1, jobs, ...findings, proposals })}\n`
      : calibrationText(findings, proposals, jobs),
  )
  return EXIT.ok
}
