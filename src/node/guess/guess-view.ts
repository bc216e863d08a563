/** What `mesh-node guess-env` prints for people: what is known, and how. Pure. */
import { formatSize, plural } from '../../base/units.ts'
import type { Ability } from '../../build/probe/known.ts'
import type { RootFacts } from '../../build/probe/root-facts.ts'
import type { Guess } from './guess.ts'

const COLUMNS_MAX = 34

/** Name, value, source or reason. */
type Row = readonly [name: string, value: string, why: string]

export function machineText({ facts, custom, offered }: Guess): string {
  const { kernel, userland, disk, kvm, namespaces, overlay, cgroups, sandbox } = facts
  const { totalBytes, freeBytes } = disk.value
  const sections: readonly (readonly [string, readonly Row[]])[] = [
    [
      'machine',
      [
        ['userland', `${userland.system} ${userland.platform.label}`, `probed: ${userland.how}`],
        ['kernel', `${kernel.system} ${kernel.release}`, 'probed: uname'],
        ['cpus', String(offered.cpus.value), `${offered.cpus.source}: ${offered.cpus.how}`],
        [
          'memory',
          formatSize(offered.memoryBytes.value),
          `${offered.memoryBytes.source}: ${offered.memoryBytes.how}`,
        ],
        ['swap', formatSize(facts.swapBytes.value), `probed: ${facts.swapBytes.how}`],
        [
          'disk',
          `${formatSize(freeBytes)} free of ${formatSize(totalBytes)}`,
          `probed: ${disk.how}`,
        ],
        [
          'processor',
          facts.cpuModel.value || 'unknown',
          `probed: ${facts.cpuModel.how}, ${plural(facts.cpuFlags.value.length, 'flag')}`,
        ],
      ],
    ],
    [
      'programs that run here',
      [
        ...facts.systems.map(({ system, how, why }): Row => [system, how, why]),
        ...facts.otherSystems.map(({ system, why }): Row => [system, 'no', why]),
      ],
    ],
    [
      'what works',
      [
        ...Object.entries(namespaces).map(([name, ability]) => able(`${name} namespace`, ability)),
        able('chroot', facts.chroot),
        able('overlay as root', overlay.asRoot),
        able('overlay in a user namespace', overlay.inUserNamespace),
        able('kvm', kvm.host),
        able('kvm in the sandbox', kvm.sandbox),
        ...Object.entries(cgroups.controllers).map(([name, ability]) =>
          able(`limit of ${name}`, ability),
        ),
        [
          'sandbox',
          sandbox.method === 'none' ? 'no' : sandbox.method,
          sandbox.reasons.join('; ') || 'the strongest that there is',
        ],
        ...facts.engines.map((engine) => able(engine.name, engine, engine.version)),
      ],
    ],
    [
      'what it offers',
      offered.environments.map(({ system, isolation, label, machine, features }): Row => [
        `${system} ${isolation}`,
        machine === undefined ? label : `${label} on ${machine}`,
        features.join(', '),
      ]),
    ],
    ['facts of its operator', custom.facts.map(({ name, value, how }): Row => [name, value, how])],
    ['notices', offered.notices.map((notice): Row => ['!', notice, ''])],
  ]
  return textOf(sections)
}

export function rootText(facts: RootFacts): string {
  const { root, system, platform, how, runs, entered, tools } = facts
  return textOf([
    [
      root,
      [
        ['system', system ?? 'unknown', `read: ${how}`],
        ['platform', platform.label, `id ${platform.id}, version ${platform.version || 'none'}`],
        ['runs here', runs, ''],
        able('entered', entered),
        ['tools', tools.join(' ') || 'none', entered.ok ? 'found by its shell' : 'not looked for'],
      ],
    ],
  ])
}

const able = (name: string, { ok, why }: Ability, value = 'yes'): Row => [
  name,
  ok ? value : 'no',
  why,
]

function textOf(sections: readonly (readonly [string, readonly Row[]])[]): string {
  const rows = sections.flatMap(([, of]) => of)
  // One that is longer than a column moves only its own line.
  const width = (at: 0 | 1): number =>
    Math.max(0, ...rows.map((row) => row[at].length).filter((length) => length <= COLUMNS_MAX))
  const [names, values] = [width(0), width(1)]
  return `${sections
    .filter(([, of]) => of.length > 0)
    .map(([title, of]) =>
      [
        title,
        ...of.map(([name, value, why]) =>
          `  ${name.padEnd(names)}  ${value.padEnd(values)}  ${why}`.trimEnd(),
        ),
      ].join('\n'),
    )
    .join('\n\n')}\n`
}
