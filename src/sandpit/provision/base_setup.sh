# Runs inside the new root file system of `base`, as root, when its packages are installed.
set -eu

useradd --create-home --uid 1000 --user-group --shell /bin/bash --groups sudo user
printf 'user ALL=(ALL:ALL) NOPASSWD: ALL\n' > /etc/sudoers.d/user
chmod 0440 /etc/sudoers.d/user
mkdir -p /code /usr/local/lib/python3.11/dist-packages
chown user:user /code
chmod 0777 /code
chmod 0755 /home/user  # sshd refuses keys in a home that others can write to

# A login shell must keep the PATH and the variables it is given: every command runs in one.
cat > /etc/profile <<'EOF'
: "${PATH:=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}" "${LANG:=C.UTF-8}"
export PATH LANG SHELL=/bin/bash
for script in /etc/profile.d/*.sh; do
  [ ! -r "$script" ] || . "$script"
done
unset script
if [ -n "${BASH_VERSION-}" ]; then
  PS1='\w \$ '
  [ ! -r ~/.bashrc ] || . ~/.bashrc
  # bash itself reads ~/.profile only if neither of these is there
  if [ -e ~/.bash_profile ] || [ -e ~/.bash_login ]; then [ ! -r ~/.profile ] || . ~/.profile; fi
fi
EOF
cat > /etc/bash.bashrc <<'EOF'
PS1='\w \$ '
EOF
rm -f /etc/profile.d/*bash_completion*
cat > /etc/skel/.bashrc <<'EOF'
PS1='\w \$ '
alias ls='ls --color=auto'
EOF
cat > /etc/skel/.profile <<'EOF'
case ":$PATH:" in *":$HOME/.local/bin:"*) ;; *) PATH="$HOME/.local/bin:$PATH" ;; esac
EOF
for home in /root /home/user; do cp /etc/skel/.bashrc /etc/skel/.profile "$home/"; done
chown user:user /home/user/.bashrc /home/user/.profile
echo 'LANG=C.UTF-8' > /etc/default/locale
# One file instead of twelve directories' worth: a third of the system calls of `bash -l -c true`.
localedef --add-to-archive /usr/lib/locale/C.utf8

printf '[global]\ndisable-pip-version-check = true\nroot-user-action = ignore\n' > /etc/pip.conf
printf '#!/bin/sh\n# A sandbox has no init system: packages must not start services.\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 0755 /usr/sbin/policy-rc.d

: > /etc/machine-id
echo sandbox > /etc/hostname
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' > /etc/hosts
rm -f /etc/apt/apt.conf.d/99mmdebstrap /etc/resolv.conf /var/log/*.log /var/log/apt/* /var/cache/ldconfig/aux-cache
# The directories of manual pages stay: alternatives of packages make links in them.
find /usr/share/man ! -type d -delete
mkdir -p /usr/share/man/man1 /usr/share/man/man2 /usr/share/man/man3 /usr/share/man/man4 /usr/share/man/man5 \
  /usr/share/man/man6 /usr/share/man/man7 /usr/share/man/man8
rm -rf /usr/share/doc/* /usr/share/info/* /usr/share/lintian /usr/share/locale/* /var/lib/apt/lists/* /tmp/* /var/tmp/*
mkdir -p /var/lib/apt/lists/partial
rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
touch /etc/resolv.conf
